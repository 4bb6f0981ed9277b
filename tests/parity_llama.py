"""Compares the decoder with transformers' Llama; no test of pytest's.

`python tests/parity_llama.py` copies random weights of ours into LlamaModel, prints how
far the two are apart, and exits 1 if that is too far. With `--write` it writes
golden/llama.npz, by which test_item_decoder.py compares them without torch. Needs the
extra `parity`: pip install -c constraints.txt -e '.[parity]'
"""

import argparse
import pathlib
import sys

# The checkout's package, installed or not.
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from flax import traverse_util
import jax
import numpy as np
import test_item_decoder
import torch
import transformers

from lightlm_jax.models import decoder

# Ours → theirs; of all but the norms' scales the transpose.
NAMES = {
  "attention_norm/scale": "input_layernorm.weight",
  "attention/query/kernel": "self_attn.q_proj.weight",
  "attention/key/kernel": "self_attn.k_proj.weight",
  "attention/value/kernel": "self_attn.v_proj.weight",
  "attention/output/kernel": "self_attn.o_proj.weight",
  "forward_norm/scale": "post_attention_layernorm.weight",
  "gate/kernel": "mlp.gate_proj.weight",
  "inner/kernel": "mlp.up_proj.weight",
  "outer/kernel": "mlp.down_proj.weight",
}


def llama(c: decoder.Config, params) -> transformers.LlamaModel:
  """Theirs, with our weights."""
  model = transformers.LlamaModel(
    transformers.LlamaConfig(
      vocab_size=1,
      hidden_size=c.D,
      intermediate_size=c.F,
      num_hidden_layers=c.N,
      num_attention_heads=c.H,
      num_key_value_heads=c.G,
      rms_norm_eps=1e-6,
      attn_implementation="eager",
    )
  ).eval()
  flat = traverse_util.flatten_dict(params, sep="/")
  theirs = {"embed_tokens.weight": model.embed_tokens.weight.detach()}
  theirs["norm.weight"] = flat.pop("norm/scale")
  for name, value in flat.items():
    block, _, rest = name.partition("/")
    layer = block.removeprefix("block_")
    theirs[f"layers.{layer}.{NAMES[rest]}"] = np.asarray(value).T
  state = {name: torch.tensor(np.asarray(value)) for name, value in theirs.items()}
  model.load_state_dict(state)
  return model


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--write", action="store_true")
  write = parser.parse_args().write
  config = test_item_decoder.GOLDEN_CONFIG
  rng = np.random.default_rng(0)
  x_BLD = rng.normal(size=(2, 9, config.D)).astype(np.float32)
  segment_BL = np.ones(x_BLD.shape[:2], np.int32)
  net = decoder.Transformer(config)
  params = net.init(jax.random.key(0), x_BLD, segment_BL)["params"]
  # Norms that are all 1 would hide where they stand.
  params = jax.tree.map(
    lambda x: x + rng.normal(size=x.shape, scale=0.1).astype(np.float32), params
  )
  with torch.no_grad():
    theirs = llama(config, params)(inputs_embeds=torch.tensor(x_BLD))
  hidden_BLD = theirs.last_hidden_state.numpy()
  ours_BLD = net.apply({"params": params}, x_BLD, segment_BL)
  error = np.abs(ours_BLD - hidden_BLD).max()
  print(f"transformers {transformers.__version__}: furthest apart {error:.1e}")
  if write:
    flat = traverse_util.flatten_dict(params, sep="/")
    np.savez_compressed(
      test_item_decoder.GOLDEN, **flat, x_BLD=x_BLD, hidden_BLD=hidden_BLD
    )
  sys.exit(int(error > 1e-5))


if __name__ == "__main__":
  main()
