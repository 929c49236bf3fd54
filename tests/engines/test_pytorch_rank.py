"""What a rank does for itself before its cell begins."""

from __future__ import annotations

import os

import pytest
import torch

from flyte_jupyter.engines.pytorch import rank


@pytest.fixture
def gpus(monkeypatch):
    """Pretend to have some GPUs, where there are none; returns those that were taken."""
    taken = []

    def have(count):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", taken.append)
        return taken

    return have


@pytest.mark.parametrize(("local", "device"), [(0, 0), (1, 1), (2, 0), (3, 1)])
def test_a_rank_takes_the_gpu_of_its_number(gpus, monkeypatch, local, device, capsys):
    taken = gpus(2)
    monkeypatch.setenv("LOCAL_RANK", str(local))
    monkeypatch.setenv("RANK", str(local))
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "1")
    monkeypatch.setenv("GROUP_RANK", "0")
    rank._use_device()
    assert taken == [device]
    said = "4 ranks share 2 GPUs of this machine.\n" if local == 0 else ""
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("number", "named", "visible"),
    [
        (0, "", "0,1"),
        (1, "", "0,1"),
        (2, "", "2,3"),
        (3, "", "2,3"),
        (3, "7,6,GPU-a,GPU-b", "GPU-a,GPU-b"),
    ],
)
def test_nodes_of_one_machine_have_no_gpu_in_common(
    gpus, monkeypatch, capsys, number, named, visible
):
    taken = gpus(4)
    node, local = divmod(number, 2)
    about = {"LOCAL_RANK": local, "RANK": number, "WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 2}
    about |= {"GROUP_RANK": node, "GROUP_WORLD_SIZE": 2, "CUDA_VISIBLE_DEVICES": named}
    for name, value in about.items():
        monkeypatch.setenv(name, str(value))
    rank._use_device()
    assert (os.environ["CUDA_VISIBLE_DEVICES"], taken) == (visible, [local])
    assert capsys.readouterr().err == ""


def test_a_node_of_more_ranks_than_its_share_sees_all_gpus(gpus, monkeypatch):
    taken = gpus(2)
    about = {"LOCAL_RANK": 1, "RANK": 3, "WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 2}
    about |= {"GROUP_RANK": 1, "GROUP_WORLD_SIZE": 2, "CUDA_VISIBLE_DEVICES": "0,1"}
    for name, value in about.items():
        monkeypatch.setenv(name, str(value))
    rank._use_device()
    assert (os.environ["CUDA_VISIBLE_DEVICES"], taken) == ("0,1", [1])


@pytest.mark.parametrize(
    ("gpus_there", "nodes", "shares"),
    [
        ("abcd", 2, ["ab", "cd"]),
        ("abcde", 2, ["abc", "de"]),
        ("abcde", 3, ["ab", "cd", "e"]),
        ("ab", 3, ["a", "b", "a"]),
        ("a", 1, ["a"]),
    ],
)
def test_gpus_are_shared_out_to_nodes(gpus_there, nodes, shares):
    got = [rank.share_of_node([*gpus_there], node, nodes) for node in range(nodes)]
    assert ["".join(share) for share in got] == shares


def test_without_a_gpu_nothing_is_taken(gpus):
    taken = gpus(0)
    rank._use_device()
    assert taken == []


def test_loopback_is_used_unless_the_user_says_otherwise(monkeypatch):
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "mine")
    monkeypatch.delenv("NCCL_SOCKET_IFNAME")
    rank.use_loopback()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "mine"
    assert os.environ["NCCL_SOCKET_IFNAME"].startswith("lo")
