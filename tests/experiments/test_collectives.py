"""What knows the answer: groups written out by hand, programs whose collectives are known, and formulas."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.collectives import collective_bytes, collectives, replica_groups, ring_bytes, spanned

MESH = {"data": 2, "fsdp": 4, "tensor": 1}


def sets(groups):
    return {frozenset(map(int, group)) for group in groups}


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", [(0, 1), (2, 3), (4, 5), (6, 7)]),
        ("{}", [range(8)]),
        ("[2,4]<=[8]", [range(4), range(4, 8)]),
        ("[4,2]<=[2,4]T(1,0)", [(0, 4), (1, 5), (2, 6), (3, 7)]),
        ("[4,2]<=[2,2,2]T(0,2,1)", [(0, 2), (1, 3), (4, 6), (5, 7)]),
        ("mesh['a'=2,'b'=4,'c'=1] {'b'}", [range(4), range(4, 8)]),
        ("mesh['a'=2,'b'=4] {'a'}", [(0, 4), (1, 5), (2, 6), (3, 7)]),
        ("mesh['a'=2,'b'=4] {'a','b'}", [range(8)]),
        ("mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}", [(0, 1), (2, 3), (4, 5), (6, 7)]),
        ("mesh['a'=2,'b'=4], device_ids=(7,6,5,4,3,2,1,0) {'b'}", [range(4), range(4, 8)]),
        ("mesh['a'=8] {'a':(2)2}", [(0, 2), (1, 3), (4, 6), (5, 7)]),
        ("mesh['a'=8] {'a':(4)2}", [(0, 1), (2, 3), (4, 5), (6, 7)]),
        ("mesh['a'=8] {'a':(1)2,'a':(4)2}", [(0, 1, 4, 5), (2, 3, 6, 7)]),
    ],
)
def test_every_way_to_write_groups(text, groups):
    assert sets(replica_groups(f"all-gather(%x), replica_groups={text}, dimensions=...", 8)) == sets(groups)


def test_groups_are_named_by_the_axes_they_span():
    assert spanned(np.array([[0, 4], [1, 5]]), MESH) == (("data",), (2,))
    assert spanned(np.array([[0, 1], [2, 3]]), MESH) == (("fsdp",), (2,))  # a part of the axis
    assert spanned(np.arange(8)[None], MESH) == (("data", "fsdp"), (2, 4))
    with pytest.raises(ValueError, match="device 8"):
        spanned(np.arange(9)[None], MESH)


@pytest.mark.parametrize("kind", ["all-gather", "all-reduce", "reduce-scatter"])
def test_axes_one_after_the_other_send_what_one_ring_does(kind):
    over_all = dict(ring_bytes(kind, 1000, ["all"], [8]))["all"]
    assert sum(dict(ring_bytes(kind, 1000, ["data", "fsdp"], [2, 4])).values()) == pytest.approx(over_all)
    assert over_all == pytest.approx(1000 * 7 / 8 * (2 if kind == "all-reduce" else 1))


# As the TPU's compiler writes: a loop that does not tell its turns (4 by steps of 2), a sum that is scattered, a
# permutation that starts and ends, and beside the program a gather in two pieces.
TPU = """HloModule step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %y = f32[]{:T(128)} parameter(1)
  %x = f32[]{:T(128)} parameter(0)
  ROOT %sum = f32[]{:T(128)} add(%x, %y)
}

%all-reduce-scatter.1 (input: bf16[64,8]) -> bf16[16,8] {
  %input = bf16[64,8]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.2 = bf16[64,8]{1,0:T(8,128)(2,1)} all-reduce(%input), replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %part = bf16[16,8]{1,0:T(8,128)(2,1)} dynamic-slice(%all-reduce.2, %zero), dynamic_slice_sizes={16,8}
}

%beside (given: f32[4]) -> f32[8] {
  %given = f32[4]{0} parameter(0)
  %begins = f32[8]{0} all-gather(%given), channel_id=3, replica_groups=[4,2]<=[2,4]T(1,0), chain_id=1
  ROOT %ends = f32[8]{0} all-gather(%given), channel_id=3, replica_groups=[4,2]<=[2,4]T(1,0), chain_id=1
}

%body (carried: (bf16[16], u32[], bf16[64,8])) -> (bf16[16], u32[], bf16[64,8]) {
  %carried = (bf16[16]{0:T(256)}, u32[]{:T(128)}, bf16[64,8]{1,0}) parameter(0)
  %two = u32[]{:T(128)} constant(2)
  %i = u32[]{:T(128)} get-tuple-element(%carried), index=1
  %next = u32[]{:T(128)} add(%i, %two), metadata={op_name="next"}
  %mine = bf16[16]{0:T(256)} get-tuple-element(%carried), index=0
  %sums = bf16[64,8]{1,0} get-tuple-element(%carried), index=2
  %send = (bf16[16]{0}, bf16[16]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%mine), channel_id=1, \
source_target_pairs={{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}, metadata={op_name="shift"}
  %sent = bf16[16]{0} collective-permute-done(%send)
  %scattered = bf16[16,8]{1,0} fusion(%sums), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %tuple.1 = (bf16[16]{0}, u32[], bf16[64,8]{1,0}) tuple(%sent, %next, /*index=2*/%sums)
}

%condition (carried.1: (bf16[16], u32[], bf16[64,8])) -> pred[] {
  %four = u32[]{:T(128)} constant(4)
  %carried.1 = (bf16[16]{0:T(256)}, u32[]{:T(128)}, bf16[64,8]{1,0}) parameter(0)
  %j = u32[]{:T(128)} get-tuple-element(%carried.1), index=1
  ROOT %less = pred[]{:T(512)} compare(%j, %four), direction=LT
}

ENTRY %main (p: bf16[16], q: bf16[64,8], r: f32[4]) -> bf16[16] {
  %p = bf16[16]{0} parameter(0)
  %q = bf16[64,8]{1,0} parameter(1)
  %r = f32[4]{0} parameter(2)
  %zero = u32[] constant(0)
  %start = u32[]{:T(128)S(6)} copy(%zero)
  %tuple = (bf16[16]{0}, u32[], bf16[64,8]{1,0}) tuple(%p, %start, %q)
  %while = (bf16[16]{0}, u32[], bf16[64,8]{1,0}) while(%tuple), condition=%condition, body=%body
  %begun = ((f32[4]), f32[8], s32[]) async-start(%r), calls=%beside
  %ended = f32[8]{0} async-done(%begun), calls=%beside
  %stays = bf16[16]{0} all-reduce(%p), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}, to_apply=%add
  ROOT %out = bf16[16]{0} get-tuple-element(%while), index=0
}
"""


def test_a_tpu_program_by_hand():
    found = collectives(TPU, MESH)
    assert [(c.kind, c.axes, c.runs, c.payload) for c in found] == [
        ("collective-permute", ("fsdp",), 2, 16 * 2),
        ("reduce-scatter", ("fsdp",), 2, 64 * 8 * 2),
        ("all-gather", ("data",), 1, 8 * 4),
    ]
    assert found[0].source == "shift"
    assert collective_bytes(TPU, MESH) == {"data": 16, "fsdp": 2 * 32 + 2 * 1024 * 3 / 4}


def test_what_cannot_be_counted_is_an_error():
    with pytest.raises(ValueError, match="how often it turns"):
        collectives(TPU.replace("constant(2)", "parameter(1)"), MESH)
    with pytest.raises(ValueError, match="unknown form"):
        collectives(TPU.replace("[2,4]<=[8]", "diagonal"), MESH)
    with pytest.raises(ValueError, match="ENTRY"):
        collectives("", MESH)


@pytest.fixture(scope="module")
def eight():
    """What eight simulated devices found, in a process of their own."""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    script = Path(__file__).with_name("eight_devices.py")
    environment = {**os.environ, **flags, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_collectives_in_loops_by_hand(eight):
    """Five turns of three turns, on a mesh of (data 2, fsdp 4)."""
    found = {(kind, *axes): (runs, payload) for kind, axes, runs, payload in eight["by_hand"]}
    assert found == {
        ("all-reduce", "fsdp"): (15, 16 * 4),
        ("all-gather", "data"): (5, 2 * 16 * 4),
        ("reduce-scatter", "data", "fsdp"): (1, 16 * 4),
        ("collective-permute", "fsdp"): (5, 16 * 4),
    }


@pytest.mark.parametrize(
    "mesh",
    ["data=8", "data=2 fsdp=4", "fsdp=8", "fsdp=2 tensor=4", "fsdp=2 context=2 tensor=2", "fsdp=2 expert=4"],
)
def test_a_training_step_sends_what_it_must_and_no_more(eight, mesh):
    sent, least = eight["steps"][mesh]
    assert set(sent) == set(least) == {axis.split("=")[0] for axis in mesh.split()}
    for axis, size in sent.items():
        assert 0.9 * least[axis] < size <= 1.1 * least[axis], axis
