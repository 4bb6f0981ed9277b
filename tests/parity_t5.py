"""Compares the transformer and its search with transformers' T5; no test of pytest's.

`python tests/parity_t5.py` copies random weights of ours, at the paper's shape, into
T5ForConditionalGeneration and prints a table; it exits 1 if they differ. With `--write`
it writes golden/t5.npz, by which test_parity.py compares a small shape without torch.
Needs the extra `parity`: pip install -c constraints.txt -e '.[parity]'
"""

import argparse
import pathlib
import sys

# The checkout's package, installed or not.
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import test_parity
import torch
import transformers

from lightlm_jax.benchmarks.t5 import T5, T5_NAMES, is_layered, under_dict
from lightlm_jax.models import encoder_decoder
from lightlm_jax.systems.token_sequences import NUM_SPECIALS, PAD, START, Source
from lightlm_jax.training.state import count_parameters

PAPER = encoder_decoder.Config(V=600, W=20, dropout_rate=0.0)
QUANTITIES = {
  "encoded_BSD": "encoder states",
  "logits_BLV": "logits",
  "loss": "loss",
  "gradients": "gradients",
}


def non_embedding(t5: T5) -> int:
  total = sum(parameter.numel() for parameter in t5.model.parameters())
  return total - t5.model.shared.weight.numel()


def outputs(t5: T5, inputs: test_parity.Inputs) -> dict[str, np.ndarray]:
  """What test_parity.outputs returns, in torch."""
  source = t5.source(Source(*inputs[:3]))
  target_BL = torch.tensor(inputs.target_BL).long()
  real_BL, label_BL = target_BL >= 0, target_BL.clamp(min=0)
  start_B1 = torch.full((len(target_BL), 1), START)
  told_BL = torch.cat([start_B1, target_BL[:, :-1].clamp(min=PAD)], dim=1)
  out = t5.model(**source, decoder_input_ids=told_BL, use_cache=False)
  cross_entropy_BL = torch.nn.functional.cross_entropy(
    out.logits.transpose(1, 2), label_BL, reduction="none"
  )
  per_target_B = (cross_entropy_BL * real_BL).sum(1) / real_BL.sum(1)
  loss = per_target_B.mean()
  t5.model.zero_grad()
  t5.word_WD.grad = None
  loss.backward()
  encoded_BSD = out.encoder_last_hidden_state * source["attention_mask"][..., None]
  found = {
    "encoded_BSD": encoded_BSD.detach().numpy(),
    "logits_BLV": out.logits.detach().numpy(),
    "loss": loss.detach().numpy(),
    "gradients/word_embedding": t5.word_WD.grad.numpy().copy(),
  }
  return found | {f"gradients/{path}": _gradient(t5, path) for path in T5_NAMES}


def _gradient(t5: T5, path: str) -> np.ndarray:
  grads = torch.stack([t5.model.get_parameter(n).grad for n in t5.names(path)])
  grads = grads.mT if path.endswith("kernel") else grads
  return (grads if is_layered(path) else grads[0]).numpy().copy()


def search(t5: T5, inputs: test_parity.Inputs, code_IL: np.ndarray):
  """What test_parity.search returns, by `generate` under a dict of prefixes."""
  return t5.search(
    Source(*inputs[:3]),
    under_dict(code_IL),
    length=code_IL.shape[1],
    beam_size=test_parity.BEAM_SIZE,
    length_penalty=test_parity.LENGTH_PENALTY,
  )


def random_params(net, seed: int):
  """Initial weights, but random where those are trivial, and far from uniform.

  Wider embeddings spread the logits, larger queries let each token attend to a few:
  what is found then depends on the source.
  """
  larger = {"embedding": 2, "query": 3, "cross_query": 3}
  rng = np.random.default_rng(seed)
  ones = jnp.ones((1, 1), jnp.int32)
  init = jax.jit(net.init)(jax.random.key(seed), ones, ones, ones, ones[None], ones)

  def redraw(path, leaf):
    if path[-1] == "scale":
      return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
    if path[-1] == "table":
      return rng.normal(size=leaf.shape).astype(np.float32)
    factor = max(larger.get(part, 1) for part in path)
    return np.asarray(leaf) * np.float32(factor)

  return traverse_util.path_aware_map(redraw, jax.device_get(init["params"]))


def random_inputs(c, *, B: int, S: int, L: int, seed: int) -> test_parity.Inputs:
  """A full row and rows of random lengths, padded as the system pads them."""
  rng = np.random.default_rng(seed)
  tokens = {"low": NUM_SPECIALS, "high": c.V, "dtype": np.int32}
  length_B = np.append(S, rng.integers(S // 4, S, B - 1))
  real_BS = np.arange(S) >= S - length_B[:, None]
  target_B = np.append(L, rng.integers(1, L, B - 1))
  target_BL = rng.integers(size=(B, L), **tokens)
  return test_parity.Inputs(
    token_BS=np.where(real_BS, rng.integers(size=(B, S), **tokens), PAD),
    word_BS=np.where(real_BS, rng.integers(c.W, size=(B, S), dtype=np.int32), 0),
    segment_BS=real_BS.astype(np.int32),
    target_BL=np.where(np.arange(L) < target_B[:, None], target_BL, -1),
  )


def random_codes(number: int, base: int, depth: int, seed: int) -> np.ndarray:
  """Distinct codes [I, L] in random order, a range of tokens for each place."""
  rng = np.random.default_rng(seed)
  drawn_I = rng.choice(base**depth, number, replace=False)
  place_L = np.arange(depth)
  digit_IL = drawn_I[:, None] // base**place_L % base
  return (NUM_SPECIALS + base * place_L + digit_IL).astype(np.int32)


def compare() -> list[tuple[str, str, str, bool]]:
  """Rows of the table, and whether each of them passes."""
  net = encoder_decoder.EncoderDecoder(PAPER)
  params = random_params(net, seed=0)
  t5 = T5(PAPER, params)
  ours, theirs = count_parameters(params)["non_embedding"], non_embedding(t5)
  name = "parameters outside the embeddings"
  rows = [(name, f"{ours:,} / {theirs:,}", "equal", ours == theirs)]

  # The second case is long enough for the buckets whose width is logarithmic.
  for B, S, L in ((8, 24, 5), (2, 200, 40)):
    inputs = random_inputs(PAPER, B=B, S=S, L=L, seed=S)
    got = jax.device_get(test_parity.outputs(net, params, inputs))
    errors = test_parity.relative_errors(got, outputs(t5, inputs))
    for quantity, name in QUANTITIES.items():
      error, array = test_parity.worst(errors, quantity)
      if quantity == "gradients":
        name = f"worst of {len(T5_NAMES) + 1} gradients, {array.partition('/')[2]}"
      passes = error <= test_parity.ERROR_BAR
      name = f"source {S}, target {L}: {name}"
      rows.append((name, f"{error:.1e}", f"{test_parity.ERROR_BAR:.0e}", passes))

  inputs = random_inputs(PAPER, B=16, S=24, L=5, seed=1)
  code_IL = random_codes(2000, base=16, depth=4, seed=0)
  found = test_parity.search(net, params, inputs, code_IL)
  expected = search(t5, inputs, code_IL)
  same = sum(test_parity.agree(*row) for row in zip(*found, *expected))
  users, K = expected[1].shape
  name = f"users whose top {K} of {len(code_IL):,} codes agree"
  rows.append((name, f"{same} of {users}", f"{users}", same == users))
  difference = float(np.abs(found[1] - expected[1]).max())
  passes = difference < test_parity.SCORE_BAR
  name = f"largest difference of a score ({K} beams, absolute)"
  rows.append((name, f"{difference:.1e}", f"{test_parity.SCORE_BAR:.0e}", passes))
  return rows


def write() -> None:
  """Writes the golden file: weights, inputs and what T5 makes of them."""
  c = test_parity.CONFIG
  params = random_params(encoder_decoder.EncoderDecoder(c), seed=0)
  half = jax.tree.map(lambda leaf: leaf.astype(np.float16), params)
  t5 = T5(c, jax.tree.map(lambda leaf: leaf.astype(np.float32), half))
  inputs = random_inputs(c, B=4, S=40, L=24, seed=0)
  code_IL = random_codes(100, base=10, depth=3, seed=0)
  top_BKL, score_BK = search(t5, inputs, code_IL)
  arrays = {"params": half, "inputs": inputs._asdict(), "t5": outputs(t5, inputs)}
  arrays |= {"code_IL": code_IL, "top_BKL": top_BKL, "score_BK": score_BK}
  flat = traverse_util.flatten_dict(arrays, sep="/")
  np.savez_compressed(test_parity.GOLDEN, **flat)
  print(f"{test_parity.GOLDEN}: {test_parity.GOLDEN.stat().st_size:,} bytes")


def table(rows) -> str:
  """Rows of texts as an aligned Markdown table."""
  rows = [("quantity", "relative error", "bar"), *(row[:3] for row in rows)]
  width = [max(map(len, column)) for column in zip(*rows)]
  rows.insert(1, tuple("-" * w for w in width))
  return "\n".join(
    "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, width)) + " |"
    for row in rows
  )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--write", action="store_true", help="write golden/t5.npz")
  jax.config.update("jax_platforms", "cpu")
  if parser.parse_args().write:
    write()
    return
  rows = compare()
  print(table(rows))
  versions = (f"{m.__name__} {m.__version__}" for m in (jax, torch, transformers))
  print(f"\nfloat32 on a CPU; {', '.join(versions)}")
  failed = [name for name, _, _, passes in rows if not passes]
  if failed:
    sys.exit(f"differs from T5: {'; '.join(failed)}")


if __name__ == "__main__":
  main()
