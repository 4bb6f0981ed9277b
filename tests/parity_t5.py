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

from lightlm_jax.models import encoder_decoder
from lightlm_jax.systems.text import NUM_SPECIALS, PAD, START
from lightlm_jax.training.state import count_parameters

PAPER = encoder_decoder.Config(V=600, W=20, dropout_rate=0.0)
QUANTITIES = {
  "encoded_BSD": "encoder states",
  "logits_BLV": "logits",
  "loss": "loss",
  "gradients": "gradients",
}

# T5's name of each parameter; {} is the layer, the first axis of ours.
_ENCODER, _DECODER = "encoder.block.{}.layer.", "decoder.block.{}.layer."
T5_NAMES = {
  "embedding": "shared.weight",
  # The first layer has the only table; the layers after it get its biases handed on.
  "encoder_bias/table": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias"
  ".weight",
  "encoder/attention_norm/scale": _ENCODER + "0.layer_norm.weight",
  "encoder/query/kernel/kernel": _ENCODER + "0.SelfAttention.q.weight",
  "encoder/key/kernel/kernel": _ENCODER + "0.SelfAttention.k.weight",
  "encoder/value/kernel/kernel": _ENCODER + "0.SelfAttention.v.weight",
  "encoder/output/kernel": _ENCODER + "0.SelfAttention.o.weight",
  "encoder/feed_forward_norm/scale": _ENCODER + "1.layer_norm.weight",
  "encoder/feed_forward/inner/kernel": _ENCODER + "1.DenseReluDense.wi.weight",
  "encoder/feed_forward/outer/kernel": _ENCODER + "1.DenseReluDense.wo.weight",
  "encoder_norm/scale": "encoder.final_layer_norm.weight",
  "decoder_bias/table": "decoder.block.0.layer.0.SelfAttention.relative_attention_bias"
  ".weight",
  "decoder/self_norm/scale": _DECODER + "0.layer_norm.weight",
  "decoder/query/kernel/kernel": _DECODER + "0.SelfAttention.q.weight",
  "decoder/key/kernel/kernel": _DECODER + "0.SelfAttention.k.weight",
  "decoder/value/kernel/kernel": _DECODER + "0.SelfAttention.v.weight",
  "decoder/self_output/kernel": _DECODER + "0.SelfAttention.o.weight",
  "decoder/cross_norm/scale": _DECODER + "1.layer_norm.weight",
  "decoder/cross_query/kernel/kernel": _DECODER + "1.EncDecAttention.q.weight",
  "memory/cross_key/kernel/kernel": _DECODER + "1.EncDecAttention.k.weight",
  "memory/cross_value/kernel/kernel": _DECODER + "1.EncDecAttention.v.weight",
  "decoder/cross_output/kernel": _DECODER + "1.EncDecAttention.o.weight",
  "decoder/feed_forward_norm/scale": _DECODER + "2.layer_norm.weight",
  "decoder/feed_forward/inner/kernel": _DECODER + "2.DenseReluDense.wi.weight",
  "decoder/feed_forward/outer/kernel": _DECODER + "2.DenseReluDense.wo.weight",
  "decoder_norm/scale": "decoder.final_layer_norm.weight",
}
TIED = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"}


class T5:
  """transformers' T5 with our weights, and the whole-word table that it has not."""

  def __init__(self, c: encoder_decoder.Config, params):
    config = transformers.T5Config(
      vocab_size=c.V,
      d_model=c.D,
      d_kv=c.A,
      d_ff=c.F,
      num_layers=c.N,
      num_decoder_layers=c.num_decoder_layers,
      num_heads=c.H,
      relative_attention_num_buckets=c.num_buckets,
      relative_attention_max_distance=c.max_distance,
      dropout_rate=0.0,
      layer_norm_epsilon=1e-6,
      feed_forward_proj="relu",
      tie_word_embeddings=True,
      pad_token_id=PAD,
      decoder_start_token_id=START,
      attn_implementation="eager",
    )
    self.model = transformers.T5ForConditionalGeneration(config).eval()
    flat = traverse_util.flatten_dict(params, sep="/")
    self.word_WD = torch.tensor(flat.pop("word_embedding"))
    self.word_WD.requires_grad_()
    self.num_layers = {"encoder": c.N, "decoder": c.num_decoder_layers}
    state = {}
    for path, leaf in flat.items():
      leaves = torch.tensor(leaf if self._is_layered(path) else leaf[None])
      leaves = leaves.mT if path.endswith("kernel") else leaves
      state |= dict(zip(self._names(path), leaves, strict=True))
    loaded = self.model.load_state_dict(state, strict=False)
    # Every parameter is ours, or tied to one that is.
    assert not loaded.unexpected_keys
    assert set(loaded.missing_keys) == TIED
    shared = self.model.shared.weight
    assert all(self.model.get_parameter(name) is shared for name in TIED)
    assert self.model.config.scale_decoder_outputs

  def _is_layered(self, path):
    return "{}" in T5_NAMES[path]

  def _names(self, path):
    """T5's names of the layers of our parameter."""
    name = T5_NAMES[path]
    if not self._is_layered(path):
      return [name]
    return [name.format(i) for i in range(self.num_layers[name.partition(".")[0]])]

  def _gradient(self, path) -> np.ndarray:
    grads = torch.stack([self.model.get_parameter(n).grad for n in self._names(path)])
    grads = grads.mT if path.endswith("kernel") else grads
    return (grads if self._is_layered(path) else grads[0]).numpy().copy()

  def non_embedding(self) -> int:
    total = sum(parameter.numel() for parameter in self.model.parameters())
    return total - self.model.shared.weight.numel()

  def _source(self, inputs: test_parity.Inputs):
    token_BS, word_BS, segment_BS = map(torch.tensor, inputs[:3])
    embedded_BSD = self.model.shared(token_BS) + self.word_WD[word_BS]
    return {"inputs_embeds": embedded_BSD, "attention_mask": (segment_BS > 0).long()}

  def outputs(self, inputs: test_parity.Inputs) -> dict[str, np.ndarray]:
    """What test_parity.outputs returns, in torch."""
    source = self._source(inputs)
    target_BL = torch.tensor(inputs.target_BL).long()
    real_BL, label_BL = target_BL >= 0, target_BL.clamp(min=0)
    start_B1 = torch.full((len(target_BL), 1), START)
    told_BL = torch.cat([start_B1, target_BL[:, :-1].clamp(min=PAD)], dim=1)
    out = self.model(**source, decoder_input_ids=told_BL, use_cache=False)
    cross_entropy_BL = torch.nn.functional.cross_entropy(
      out.logits.transpose(1, 2), label_BL, reduction="none"
    )
    per_target_B = (cross_entropy_BL * real_BL).sum(1) / real_BL.sum(1)
    loss = per_target_B.mean()
    self.model.zero_grad()
    self.word_WD.grad = None
    loss.backward()
    encoded_BSD = out.encoder_last_hidden_state * source["attention_mask"][..., None]
    found = {
      "encoded_BSD": encoded_BSD.detach().numpy(),
      "logits_BLV": out.logits.detach().numpy(),
      "loss": loss.detach().numpy(),
      "gradients/word_embedding": self.word_WD.grad.numpy().copy(),
    }
    return found | {f"gradients/{path}": self._gradient(path) for path in T5_NAMES}

  @torch.no_grad()
  def search(self, inputs: test_parity.Inputs, code_IL: np.ndarray):
    """What test_parity.search returns, by `generate` under a dict of prefixes."""
    children = {}
    for code in code_IL.tolist():
      for level, token in enumerate(code):
        children.setdefault(tuple(code[:level]), set()).add(token)
    found = self.model.generate(
      **self._source(inputs),
      # The start token is a prompt and does not count. No code ends with `eos`: all
      # beams end together, with the last token.
      max_new_tokens=code_IL.shape[1],
      eos_token_id=self.model.config.vocab_size - 1,
      num_beams=test_parity.BEAM_SIZE,
      num_return_sequences=test_parity.BEAM_SIZE,
      length_penalty=test_parity.LENGTH_PENALTY,
      do_sample=False,
      # The cache that `generate` makes has as many layers as the encoder.
      use_cache=self.model.config.num_layers == self.model.config.num_decoder_layers,
      prefix_allowed_tokens_fn=lambda _, told: list(children[tuple(told[1:].tolist())]),
      return_dict_in_generate=True,
      output_scores=True,
    )
    rows = len(inputs.token_BS), test_parity.BEAM_SIZE
    code_BKL = found.sequences[:, 1:].reshape(*rows, -1).numpy()
    assert code_BKL.shape[2] == code_IL.shape[1]
    return code_BKL.astype(np.int32), found.sequences_scores.reshape(rows).numpy()


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
  ours, theirs = count_parameters(params)["non_embedding"], t5.non_embedding()
  name = "parameters outside the embeddings"
  rows = [(name, f"{ours:,} / {theirs:,}", "equal", ours == theirs)]

  # The second case is long enough for the buckets whose width is logarithmic.
  for B, S, L in ((8, 24, 5), (2, 200, 40)):
    inputs = random_inputs(PAPER, B=B, S=S, L=L, seed=S)
    got = jax.device_get(test_parity.outputs(net, params, inputs))
    errors = test_parity.relative_errors(got, t5.outputs(inputs))
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
  expected = t5.search(inputs, code_IL)
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
  top_BKL, score_BK = t5.search(inputs, code_IL)
  arrays = {"params": half, "inputs": inputs._asdict(), "t5": t5.outputs(inputs)}
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
