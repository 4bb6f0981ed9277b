"""What a compiled program sends between devices is counted as often as it is sent."""

from lightlm_jax.training import collectives

# A step loop whose end is data, in it a choice of two layers' scans, as XLA for TPUs
# writes them: no trip counts, shapes with layouts, asynchronous pairs.
PROGRAM = """HloModule jit_steps, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%layer (carry: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %g.1 = (f32[4,8]{1,0:T(8,128)S(1)}, /*index=1*/bf16[2]{0}) all-reduce(%x, %y), to_apply=%add
  %count = s32[] add(%i, %one)
}

%four (carry: (s32[], f32[4,8])) -> pred[] {
  %limit.2 = s32[]{:T(128)} constant(4)
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit.2), direction=LT
}

%wide (p: f32[4,8]) -> f32[4,8] {
  %w = (s32[]{:T(128)}, f32[4,8]{1,0}) while(%t), condition=%four, body=%layer
}

%narrow (p: f32[4,8]) -> f32[4,8] {
  ROOT %g.2 = f32[2]{0} all-reduce(%x), to_apply=%add
}

%wrapped (p: f32[4]) -> f32[2] {
  ROOT %r = f32[2]{0} reduce-scatter(%p), dimensions={0}, to_apply=%add
}

%step (carry: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %c = f32[4,8]{1,0} conditional(%which, %a, %b), branch_computations={%narrow, %wide}
  %s = ((f32[4]), f32[2]) async-start(%c), calls=%wrapped
  %d = f32[2]{0} async-done(%s)
}

%going (carry: (s32[], f32[4,8])) -> pred[] {
  %end = s32[] constant(9)
  %lt.2 = pred[] compare(%i, %end), direction=LT
  ROOT %both = pred[] and(%lt.2, %sound)
}

ENTRY %main (p: f32[4,8]) -> f32[4,8] {
  %g-start = (f32[1,8]{1,0}, f32[4,8]{1,0}) all-gather-start(%p), dimensions={0}
  %g-done = f32[4,8]{1,0} all-gather-done(%g-start)
  %w.2 = (s32[], f32[4,8]) while(%t), condition=%going, body=%step
}
"""  # noqa: E501


def test_loops_of_known_length_multiply_and_the_costlier_branch_counts():
  found = collectives.executed(PROGRAM)
  assert collectives.by_kind(found) == [
    {"kind": "all-gather", "count": 1, "bytes": 4 * 8 * 4},
    {"kind": "all-reduce", "count": 4, "bytes": 4 * (4 * 8 * 4 + 2 * 2)},
    {"kind": "reduce-scatter", "count": 1, "bytes": 2 * 4},
  ]
  (layer,) = (each for each in found if each.kind == "all-reduce")
  assert layer.shapes == ("f32[4,8]", "bf16[2]")


# A sum over devices in each of five turns of a scan and once behind it.
SCAN = """
import json

import jax
import jax.numpy as jnp

from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.training import collectives

mesh = mesh_lib.make(8, 1)

def each(x_D):
  turn = lambda x_D, _: (jnp.sin(jax.lax.psum(x_D, "data")), None)
  x_D, _ = jax.lax.scan(turn, x_D, length=5)
  return jax.lax.all_gather(x_D, "data", tiled=True)

program = jax.jit(
  jax.shard_map(
    each, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P(), check_vma=False
  )
)
text = program.lower(jnp.zeros(32)).compile().as_text()
print(json.dumps(collectives.by_kind(collectives.executed(text))))
"""


def test_what_xla_writes_for_this_machine_is_read_too(eight_devices):
  assert eight_devices(SCAN) == [
    {"kind": "all-gather", "count": 1, "bytes": 32 * 4},
    {"kind": "all-reduce", "count": 5, "bytes": 5 * 4 * 4},
  ]
