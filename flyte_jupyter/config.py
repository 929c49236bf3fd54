"""Every setting, as a trait: ``c.FlyteJupyter.x`` in a file, ``%config`` in a notebook."""

from __future__ import annotations

import traitlets
from traitlets.config import Configurable


class FlyteJupyter(Configurable):
    """Settings of a session."""

    backend = traitlets.Enum(
        ["local"], default_value="local", help="Where clusters live: `local`, on this machine."
    ).tag(config=True)
    start_timeout = traitlets.Float(
        60.0, help="Seconds that a cluster may take to start before it is given up."
    ).tag(config=True)
    stop_timeout = traitlets.Float(
        5.0, help="Seconds to wait for a cluster to go before the session moves on."
    ).tag(config=True)
    interrupt_grace = traitlets.Float(
        10.0, help="Seconds that a task may ignore an interrupt before its driver is replaced."
    ).tag(config=True)
    large_input = traitlets.Int(
        64 * 2**20, help="Inputs of at least this many bytes are named with their size."
    ).tag(config=True)
    output_limit = traitlets.Int(
        2**20,
        help="Bytes of text of one run shown at once; the rest of a flood is only in its log.",
    ).tag(config=True)
    output_rate = traitlets.Int(
        16 * 2**10, help="Bytes a second by which the output limit of a run grows again."
    ).tag(config=True)
    kept_inputs = traitlets.Int(
        2 * 2**30, help="Bytes of large inputs that a driver keeps so as not to be sent them again."
    ).tag(config=True)
    start_method = traitlets.Enum(
        ["auto", "fork", "spawn"],
        default_value="auto",
        help="How processes of a local cluster start: forked from one that has imported the "
        "engine, or each on its own. `auto` forks on Linux and spawns elsewhere.",
    ).tag(config=True)
    preload = traitlets.List(
        traitlets.Unicode(),
        help="Further modules that the processes of every cluster import before they start.",
    ).tag(config=True)
    autoreload = traitlets.Bool(
        True, help="Reload local modules whose file changed before a task uses them."
    ).tag(config=True)
    cache_folder = traitlets.Unicode(
        "",
        help="Where results of environments with a cache are kept; by default a folder "
        "`flyte_jupyter/cache` in Jupyter's data folder.",
    ).tag(config=True)
    cache_limit = traitlets.Int(
        2**30, help="Bytes of cached results after which those made longest ago are removed."
    ).tag(config=True)
    packages_folder = traitlets.Unicode(
        "",
        help="Where packages of images are installed; by default a folder "
        "`flyte_jupyter/packages` in Jupyter's data folder.",
    ).tag(config=True)
    image_conflicts = traitlets.Enum(
        ["refuse", "keep"],
        default_value="refuse",
        help="What happens where an image asks for another version of a package than the kernel "
        "has: nothing runs, or the kernel's is used and named.",
    ).tag(config=True)
    provided_packages = traitlets.List(
        traitlets.Unicode(),
        help="Packages that images ask for and the notebook itself provides, as while one is being "
        "written in it: they are not installed.",
    ).tag(config=True)
    secret_resolver = traitlets.Unicode(
        "",
        help="`module:function` called with (group, key) that returns a secret's value or None; "
        "asked after the notebook's own environment variables. It must not prompt.",
    ).tag(config=True)
    prewarm = traitlets.Bool(
        True,
        help="Begin to import what a cluster needs, in a process beside, when the notebook "
        "imports Flyte; the first cluster is then there in half the time.",
    ).tag(config=True)
    progress_after = traitlets.Float(
        1.0, help="Seconds after which something that takes long shows its progress."
    ).tag(config=True)
