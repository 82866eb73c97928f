"""anndata itself, in an environment of its own, reads what we write and writes what we read.

No release of it goes with the pandas of the lock, so it is installed beside: this needs a package registry.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import run_command
from exported_run import IDS, run
from filelock import FileLock
from PIL import Image
from scipy import sparse
from spot_factory import places

from lib import export
from lib.cohort import expression, h5ad_reading, h5ad_writing
from lib.cohort.h5ad_writing import Annotated
from lib.config import Config
from lib.sources import h5ad_section
from lib.store import Store

PACKAGES = ("anndata==0.12.19", "pandas<3")
OFFLINE = ("connection", "name resolution", "timed out", "unreachable")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def peer(tmp_path_factory):
    """Runs a script under a Python that has anndata, all warnings errors; returns the JSON it prints."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "anndata_environment"
    python, ready = folder / "bin" / "python", folder / "ready"
    with FileLock(folder.with_suffix(".lock")):
        if not ready.is_file():
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            line = [str(python), "-m", "pip", "install", "--quiet", "--retries", "1", "--timeout", "20"]
            done = subprocess.run([*line, *PACKAGES], capture_output=True, text=True, check=False)
            if done.returncode and any(word in done.stderr.lower() for word in OFFLINE):
                pytest.skip("anndata cannot be installed: no package registry can be reached")
            assert done.returncode == 0, done.stderr
            ready.touch()

    def call(script, *arguments):
        head = "import json, sys, numpy as np, pandas as pd, anndata as ad, scipy.sparse as sp\n"
        line = [str(python), "-W", "error", "-c", head + script, *map(str, arguments)]
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder)}
        done = subprocess.run(line, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout or "null")

    return call


READ = """
def column(values):
    return [str(values.dtype), [None if pd.isna(v) else getattr(v, 'item', lambda: v)() for v in values]]

def plain(value):
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    return value.tolist() if hasattr(value, 'tolist') else value

a = ad.read_h5ad(sys.argv[1])
assert a.obs_names.is_unique and a.var_names.is_unique
print(json.dumps({
    'x': [str(a.X.dtype), a.X.tolist()], 'layers': {k: v.tolist() for k, v in a.layers.items()},
    'obs_names': a.obs_names.tolist(), 'var_names': a.var_names.tolist(), 'index': [a.obs.index.name],
    'obs': {k: column(a.obs[k]) for k in a.obs}, 'var': {k: column(a.var[k]) for k in a.var},
    'obsm': {k: [str(v.dtype), v.tolist()] for k, v in a.obsm.items()}, 'uns': plain(dict(a.uns)),
}))
a.write_h5ad(sys.argv[2])  # and can go on with it
"""


def test_anndata_reads_an_exported_run(make_store, peer, tmp_path):
    store = make_store()
    values_df = run(store)
    export.export(store)
    read = peer(READ, store.export_path("features"), tmp_path / "again.h5ad")
    assert read["x"] == ["float32", [[7, 8, 9], [1, 2, 3], [4, 5, 6]]]
    assert read["obs_names"] == ["s2", "s3", "s4"]
    assert read["index"] == ["sample_id"]
    assert read["var_names"] == ["1_0", "1_1", "29_499"]
    assert read["obs"]["slide_id"] == ["category", ["A", "B", "B"]]
    assert read["obs"]["age"] == ["float64", [None, 61, 40]]
    assert read["var"]["layer"] == ["int32", [1, 1, 29]]
    assert read["var"]["clump"] == ["category", ["1_0", "1_0", "29_499"]]
    assert read["obsm"] == {"spatial": ["float64", [[24, 8], [34, 9], [44, 10]]]}
    uns = read["uns"]
    assert (uns["cohort"], uns["network"], uns["aggregate"]) == ("mine", "vgg16", "mean")
    assert uns["parameters"] == h5ad_writing.flat(store.config.model_dump(mode="json"))
    assert uns["versions"] == store.facts("features_test")["versions"]
    read = peer(READ, store.export_path("expression"), tmp_path / "again.h5ad")
    np.testing.assert_array_equal(read["x"][1], values_df[IDS].to_numpy().T)
    np.testing.assert_allclose(read["layers"]["log2"], np.log2(1 + values_df[IDS].to_numpy().T), rtol=1e-6)
    assert read["var"]["gene_ids"] == ["object", ["ENSG2", "ENSG1"]]
    assert read["var"]["symbol"] == ["object", ["B", "A"]]
    assert read["var"]["q"] == ["float64", [0.2, 0.01]]
    assert read["uns"]["unit"] == "TPM"


def test_anndata_reads_every_kind_of_column(peer, tmp_path):
    obs_df = pd.DataFrame({
        "text": ["x", "y", "z"], "twice": ["x", "y", "x"], "lacks": ["x", None, "é"], "none": [None] * 3,
        "n": [1, 2, 3], "truth": [True, False, True], "decimal": [0.5, np.nan, 1e300],
        "whole": pd.array([4, None, 6], dtype="Int64"),
        "maybe": pd.array([True, None, False], dtype="boolean"),
        "grade": pd.Categorical(["low", "high", "low"], ["low", "high"], ordered=True),
        "codes": pd.Categorical([7, 3, 7]), "a/b": [1.0, 2.0, 3.0],
    }, index=["001", "1e5", "NA"])  # fmt: skip
    uns = {"deep": {"er": {"n": 1, "yes": True, "text": "é"}, "empty": {}}, "names": np.array(["a"], object)}
    data = Annotated(np.zeros((3, 0), np.float32), obs_df, pd.DataFrame(index=[]), {}, {}, uns)
    h5ad_writing.write(tmp_path / "x.h5ad", data)
    read = peer(READ, tmp_path / "x.h5ad", tmp_path / "again.h5ad")
    assert read["obs_names"] == ["001", "1e5", "NA"]
    assert read["obs"] == {
        "text": ["object", ["x", "y", "z"]], "twice": ["category", ["x", "y", "x"]],
        "lacks": ["category", ["x", None, "é"]], "none": ["category", [None] * 3],
        "n": ["int64", [1, 2, 3]], "truth": ["bool", [True, False, True]],
        "decimal": ["float64", [0.5, None, 1e300]], "whole": ["Int64", [4, None, 6]],
        "maybe": ["boolean", [True, None, False]], "grade": ["category", ["low", "high", "low"]],
        "codes": ["category", [7, 3, 7]], "a_b": ["float64", [1, 2, 3]],
    }  # fmt: skip
    assert read["uns"] == {"deep": uns["deep"], "names": ["a"]}
    assert read["x"][1] == [[], [], []]


# --------------------------------------------------------------------------------- what anndata writes

WRITE = """
ad.settings.allow_write_nullable_strings = True
form = {'dense': np.asarray, 'csr': sp.csr_matrix, 'csc': sp.csc_matrix}[sys.argv[2]]
x = np.array([[0, 2.5, 0], [1, 0, 3]])
obs = pd.DataFrame({
    'category': pd.Categorical(['b', None], ['b', 'a']), 'ordered': pd.Categorical(['l', 'h'], ['l', 'h'], ordered=True),
    'whole': pd.array([1, None], dtype='Int64'), 'maybe': pd.array([None, True], dtype='boolean'),
    'text': ['x', 'y'], 'nullable': pd.array(['x', None], dtype='string'), 'decimal': [0.5, np.nan],
}, index=['001', 'b'])
var = pd.DataFrame({'symbol': pd.Categorical(['A', 'B', 'A'])}, index=['g1', 'g2', 'g3'])
a = ad.AnnData(form(x), obs=obs, var=var, layers={'twice': form(2 * x)}, uns={'log1p': {'base': None}, 'n': 3})
if sys.argv[3] == 'counts':
    a.layers['counts'] = form(np.ceil(x))
if sys.argv[3] == 'values':
    del a.uns['log1p']
a.raw = a
a.write_h5ad(sys.argv[1], compression='gzip')
"""  # noqa: E501


@pytest.mark.parametrize("form", ["dense", "csr", "csc"])
def test_what_anndata_writes_is_read(peer, tmp_path, form):
    path = tmp_path / "x.h5ad"
    peer(WRITE, path, form, "logged")
    with h5ad_reading.opened(path) as file:
        obs_df = h5ad_reading.read_frame(file["obs"])
        twice = h5ad_reading.read_matrix(file["layers/twice"], (2, 3))
        assert h5ad_reading.log_base(file) == np.e
        assert h5ad_reading.read_scalar(file["uns"], "n") == 3
    dense = twice.toarray() if sparse.issparse(twice) else twice
    np.testing.assert_array_equal(dense, [[0, 5, 0], [2, 0, 6]])
    assert obs_df.index.tolist() == ["001", "b"]
    assert obs_df["category"].cat.categories.tolist() == ["b", "a"]
    assert obs_df["category"].isna().tolist() == [False, True]
    assert obs_df["ordered"].cat.ordered
    assert obs_df["whole"].equals(pd.Series(pd.array([1, None], dtype="Int64"), obs_df.index))
    assert obs_df["maybe"].equals(pd.Series(pd.array([None, True], dtype="boolean"), obs_df.index))
    assert obs_df["text"].tolist() == ["x", "y"]
    assert obs_df["nullable"].isna().tolist() == [False, True]
    assert obs_df["decimal"].isna().tolist() == [False, True]


@pytest.mark.parametrize("form", ["dense", "csr", "csc"])
def test_expression_of_anndata_is_read(peer, tmp_path, form):
    path = tmp_path / "x.h5ad"
    peer(WRITE, path, form, "values")
    values_df, genes_df = expression.read_expression(path, columns=["b", "001"])
    assert values_df.to_numpy().tolist() == [[1, 0], [0, 2.5], [3, 0]]
    assert genes_df["symbol"].tolist() == ["A", "B", "A"]
    peer(WRITE, path, form, "counts")
    values_df, _ = expression.read_expression(path)
    assert values_df.to_numpy().tolist() == [[0, 1], [3, 0], [0, 3]]


SECTION = """
x, y, counts = (np.array(part) for part in json.loads(open(sys.argv[2]).read()))
obs = pd.DataFrame({'in_tissue': 1}, index=[f'AC{k:03d}-1' for k in range(len(x))])
var = pd.DataFrame({'gene_ids': [f'ENSG{k:03d}' for k in range(counts.shape[1])]})
var.index = [f'g{k}' for k in range(counts.shape[1])]
a = ad.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=obs, var=var)
a.obsm['spatial'] = np.column_stack([x, y])
a.uns['spatial'] = {'lib': {'scalefactors': {'spot_diameter_fullres': 65 / 1.6}, 'images': {}}}
if sys.argv[3] == 'logged':
    total = np.asarray(a.X.sum(axis=1))
    a.X = sp.csr_matrix(a.X.multiply(np.median(total) / total)).log1p().astype(np.float32)
    a.uns['log1p'] = {'base': None}
a.write_h5ad(sys.argv[1])
"""

COMPARE = """
ours, given = ad.read_h5ad(sys.argv[1]), ad.read_h5ad(sys.argv[2])
given = given[[name.removeprefix('A_') for name in ours.obs_names]]
given = given[:, [given.var['gene_ids'].tolist().index(gene) for gene in ours.var_names]]
counts = given.X.toarray()
print(json.dumps([
    len(ours), ours.n_vars,
    float(np.abs(np.asarray(ours.X) - counts / np.array(ours.obs['n_counts'])[:, None] * 1e4).max()),
    float(np.abs(ours.obsm['spatial'] - given.obsm['spatial']).max()),
    ours.uns['unit'], ours.obs['slide_id'].unique().tolist(), ours.var['symbol'].tolist() == given.var_names.tolist(),
]))
"""  # noqa: E501


def written_section(peer, folder, form, side=13):
    """A section that anndata writes to A.h5ad, and its image; returns the counts [spots, genes]."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, xy = np.random.default_rng(0), (places("hexagonal", side) * 100 + 90) / 1.6
    counts = rng.poisson(rng.uniform(0.5, 4, 150), (side**2, 150))
    (folder / "section.json").write_text(json.dumps([*xy.T.tolist(), counts.tolist()]))
    peer(SECTION, folder / "A.h5ad", folder / "section.json", form)
    edge = int((side + 1) * 100 / 1.6)
    pixels = rng.integers(90, 220, (edge, edge, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "A.png")
    return counts


@pytest.mark.parametrize("form", ["counts", "logged"])
def test_a_section_of_anndata_is_read(peer, tmp_path, form):
    counts = written_section(peer, tmp_path, form)
    read = h5ad_section.read_section(tmp_path / "A.h5ad")
    np.testing.assert_array_equal(read.counts.matrix.toarray().T, counts)
    assert read.scale.mpp == pytest.approx(1.6)
    assert read.counts.genes[7] == "ENSG007"
    assert read.counts.symbols[7] == "g7"


def test_from_a_section_of_anndata_to_links_and_back(peer, tmp_path):
    """The whole way: anndata's file in, a run, files out, which anndata holds against what it gave."""
    raw = tmp_path / "data/raw/mine"
    written_section(peer, raw, "counts")
    lines = 'source = "visium"\nencoder = "random"\narchitecture = "alexnet"\ntile_px = 64\n'
    lines += "tile_mpp = 1.5\ninput_px = 64\nlink_permutations = 200\nn_permutations = 50\n"
    lines += "e_threshold = 0.0\nthresholds = [[0.4, 0.0]]\n[visium_sections]\n"
    lines += 'A = { h5ad = "A.h5ad", image = "A.png" }\n'
    (tmp_path / "mine.toml").write_text(lines)
    done = run_command(tmp_path, "--cohort", tmp_path / "mine.toml", "--to", "06")
    assert done.returncode == 0, done.stdout + done.stderr
    store = Store(Config.load(str(tmp_path / "mine.toml")), root=tmp_path)
    made = export.export(store)
    assert [n for n, _ in made.values()] == [169, 169]
    compared = peer(COMPARE, store.export_path("expression"), raw / "A.h5ad")
    n, n_genes, apart, apart_px, *rest = compared
    assert (n, n_genes) == (169, len(store.load("expression")))
    assert apart < 0.01, "counts per ten thousand, to float32"
    assert apart_px <= 1, "regions have whole pixels"
    assert rest == ["CP10K", ["A"], True]
    read = peer(READ, store.export_path("features"), tmp_path / "again.h5ad")
    assert len(read["var_names"]) == 2816
    assert {"clump", "n_links", "layer"} <= set(read["var"])
