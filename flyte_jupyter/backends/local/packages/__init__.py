"""Packages that an image adds, for processes of this machine: a folder over the notebook's own.

What the kernel has already is used as it is. Only the rest is installed, once, by pip or uv, into a
folder named after its content; the kernel's own environment is never changed.
"""

from flyte_jupyter.backends.local.packages.overlays import Overlay, Overlays

__all__ = ["Overlay", "Overlays"]
