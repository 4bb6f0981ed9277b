"""Tables as `sweep` leaves them, by a law that is known: nothing is trained."""

import itertools

import numpy as np
import polars as pl

from lightlm_jax.studies import points
from lightlm_jax.studies import summary as table_lib
from lightlm_jax.studies.law import Law

LAW = Law(a=60.0, alpha=0.35, b=0.0, beta=0.0, c=3.2)
NOISE = 0.004


def rows(
  *,
  depths=(2, 4, 8),
  widths=(32, 64, 128),
  ffns=(0.125, 4.0),
  shares=None,
  seeds=(0, 1),
  noise=NOISE,
  law=LAW,
  extra=None,
):
  """A row a run; the loss by the law, NDCG falls with the loss."""
  rng = np.random.default_rng(0)
  found = []
  for depth, width, ffn, share, seed in itertools.product(
    depths, widths, ffns, shares or (1.0,), seeds
  ):
    d_ff = max(1, round(ffn * width))
    inside = depth * (12 * width**2 + 5 * width * d_ff)
    interactions = int(120_000 * share)
    loss = float(law(inside, interactions) * np.exp(noise * rng.normal()))
    examples = 400_000
    each = 6.0 * 20 * inside
    axes = {"depth": depth, "width": width, "ffn": ffn}
    axes |= {"data.share": share} if shares else {}
    row = {
      "trial": ",".join(f"{k}={v}" for k, v in (axes | {"seed": seed}).items()),
      "state": "finished",
      "reason": None,
      "dataset": "toys",
      "system": "lightlm",
      "seed": seed,
      **axes,
      **(extra or {}),
      "num_layers": depth,
      "num_decoder_layers": depth,
      "d_model": width,
      "num_heads": 4,
      "d_ff": d_ff,
      "data_share": share,
      "interactions": interactions,
      "params": inside + 3000 * width,
      "params_non_embedding": inside,
      "flops_per_example": each,
      "examples": examples,
      "train_flops": each * examples,
      "train_seconds": 20 + each * examples / 2e10 * (1 + 0.1 * rng.random()),
      "examples_per_second": 1000.0,
      "best_step": 900,
      "validation_loss": loss,
    }
    for split, high in (("validation_", 0.05), ("", 0.047)):
      for metric, factor in (("ndcg", 1.0), ("hr", 1.9)):
        for rule, level in (("seen_excluded", 1.0), ("seen_allowed", 0.8)):
          worth = factor * level * high * np.exp(-(loss - 3.2) / 2)
          noisy = worth * np.exp(3 * noise * rng.normal())
          row[f"{split}{metric}@10_{rule}"] = float(noisy)
    found.append(row)
  return found


def failed(row, reason="out of memory: give a smaller batch"):
  """The row of a trial that did not end well."""
  kept = ("trial", "dataset", "system", "seed", "depth", "width", "ffn", "data.share")
  return {k: v if k in kept else None for k, v in row.items()} | {
    "state": "failed",
    "reason": reason,
  }


def table(found):
  """The rows as `summary.parquet` has them."""
  return pl.DataFrame(found, infer_schema_length=None)


def families(found):
  return points.families(table(found))


def write(folder, found):
  folder.mkdir(parents=True, exist_ok=True)
  table(found).write_parquet(folder / table_lib.FILE)
  return folder
