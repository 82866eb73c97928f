"""The half-precision kernels in Triton's interpreter, on the CPU, against NumPy; one process each."""

import os
import subprocess
import sys

import pytest

from lib.config import ROOT

pytest.importorskip("triton")

MAXIMA = """
import numpy as np, torch
from lib.statistics import null_maxima, permutations, triton_maxima

rng = np.random.default_rng(0)
n, n_genes, n_features = 45, 5, 300
groups = np.sort(rng.integers(0, 4, n))
rows = [rng.normal(size=(k, n)) for k in (n_genes, n_features)]
for r in rows:
    for g in range(4):
        r[:, groups == g] -= r[:, groups == g].mean(axis=1, keepdims=True)
    r /= np.linalg.norm(r, axis=1, keepdims=True)
s = null_maxima.prepare(*rows, groups, "cpu")
order = np.array([rng.permutation(n) for _ in range(3)])
drawn = permutations.Permutations(order, groups, [str(i) for i in range(n)], "within_tissue", ())
triton_maxima.available = lambda device: True
half = null_maxima.null_maxima(s, drawn, "cpu", False)
which, genes = (k.ravel() for k in np.meshgrid(range(3), range(n_genes), indexing="ij"))
exact = null_maxima.exact_maxima(s, drawn, which, genes).reshape(3, n_genes)
weight = s.weights(slice(None)).amax(dim=1).numpy()
assert (np.abs(half - exact) <= null_maxima.error_bound("cpu") * weight).all()
assert null_maxima.error_bound("cpu") == triton_maxima.HALF_ERROR
assert np.abs(half - exact).max() > 0
print("as bounded")
"""

SUMS = """
import torch
from lib.features.positive_sums import rectify

torch.manual_seed(0)
for shape in ((2, 5, 7, 7), (1, 70, 40, 40)):
    for order in (torch.channels_last, torch.contiguous_format):
        maps_t = torch.randn(shape).contiguous(memory_format=order)
        maps_t[0, 1, 2, 3] = float("nan")
        before_t = maps_t.clone()
        total_t, positive_t = rectify(maps_t)
        torch.testing.assert_close(maps_t, before_t.relu(), rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(total_t, before_t.sum((2, 3)), rtol=1e-5, atol=1e-4, equal_nan=True)
        sums_t = before_t.relu().sum((2, 3))
        torch.testing.assert_close(positive_t, sums_t, rtol=1e-5, atol=1e-4, equal_nan=True)
print("as summed")
"""


@pytest.mark.parametrize(("code", "says"), [(MAXIMA, "as bounded"), (SUMS, "as summed")])
def test_kernels_in_the_interpreter(code, says):
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert says in done.stdout
