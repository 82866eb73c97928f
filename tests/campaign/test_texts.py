"""Readers of text given anything at all: the value, or one of our own errors, soon and in bounded memory."""

import gzip
import time

import pytest
import torch
from campaign.conftest import tally, tries
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lib.cohort import expression, gene_ontology, samples, splits
from lib.config import Config
from lib.config_values import parse_setting
from lib.errors import HistocorrError
from lib.features import from_file
from lib.network import weights
from lib.sources import gtex_tables

MANY = settings(
    max_examples=tries(40, 2000), deadline=5000, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
CELLS = st.sampled_from(
    ["", "NA", "nan", "1", "1.5", "-3", "1e400", "inf", "1,5", '"', "=1+1", "é", "\u0000", "\r", "S1"]
    + ["Liver", "0x10", "1_000", "٣", "train", "test", "1-Mar", "..", "a/b", "x" * 300, "\ufeff", "e\u0301"]
)
HEADERS = st.sampled_from(
    [
        "sample_id",
        "slide_id",
        "donor",
        "tissue",
        "split",
        "mpp",
        "l0_x",
        "gene",
        "Name",
        "Description",
        "symbol",
        "",
    ]
)


@st.composite
def tables(draw):
    """A table of odd cells under likely headers, in some encoding and with some line ends; cut, or zipped."""
    width = draw(st.integers(1, 8))
    mark = draw(st.sampled_from([",", "\t", ";"]))
    rows = [draw(st.lists(HEADERS, min_size=width, max_size=width))]
    rows += draw(st.lists(st.lists(CELLS, min_size=0, max_size=width + 1), max_size=8))
    text = draw(st.sampled_from(["\n", "\r\n", "\r"])).join(mark.join(row) for row in rows)
    prefix = draw(st.sampled_from(["", "", "#1.2\n3\t2\n", "#1.2\n"]))
    content = (prefix + text).encode(
        draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"])), "replace"
    )
    content = content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content
    return gzip.compress(content, mtime=0) if draw(st.booleans()) else content


@st.composite
def nearly_whole(draw):
    """A table as a reader wants it, with at most one odd cell: most of these are read."""
    kind = draw(st.sampled_from(["samples", "expression", "features"]))
    names = [f"S{i}" for i in range(draw(st.integers(1, 5)))]
    numbers = st.floats(-9, 9).map(lambda value: f"{value:.3f}")
    if kind == "samples":
        rows = [["sample_id", "slide_id", "donor", "tissue"]]
        rows += [
            [name, name, f"D{i % 3}", draw(st.sampled_from(["Liver", "Lung"]))]
            for i, name in enumerate(names)
        ]
    elif kind == "expression":
        rows = [["gene", *names]] + [[f"G{g}", *(draw(numbers).lstrip("-") for _ in names)] for g in range(3)]
    else:
        rows = [["slide_id", "l0_c0", "l0_c1"]] + [[name, draw(numbers), draw(numbers)] for name in names]
    if draw(st.booleans()):
        row = draw(st.sampled_from(rows))
        row[draw(st.integers(0, len(row) - 1))] = draw(CELLS)
    mark, end = draw(st.sampled_from([",", "\t", ";"])), draw(st.sampled_from(["\n", "\r\n", "\r"]))
    return end.join(mark.join(row) for row in rows).encode(
        draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    )


ANYTHING = st.one_of(tables(), nearly_whole(), st.binary(max_size=400))


def survives(read, path, content):
    path.write_bytes(content)
    started = time.perf_counter()
    message = ""
    try:
        read(path)
    except HistocorrError as error:
        message = str(error)
    tally("text", "refused" if message else "read")
    assert time.perf_counter() - started < 5
    assert not message or path.name in message, f"the file is not named: {message}"
    assert len(message) < 3000


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt.gz", ".parquet"])
@MANY
@given(content=ANYTHING)
@example(content=b"sample_id,slide_id,donor,tissue\n1,2,3,4\n")
def test_samples(tmp_path, suffix, content):
    survives(samples.read_samples, tmp_path / f"s{suffix}", content)


@pytest.mark.parametrize("suffix", [".csv", ".txt"])
@MANY
@given(content=ANYTHING)
def test_splits(tmp_path, suffix, content):
    survives(splits.read_split_file, tmp_path / f"s{suffix}", content)


@pytest.mark.parametrize("suffix", [".gct", ".csv", ".tsv.gz", ".parquet"])
@MANY
@given(content=ANYTHING)
def test_expression(tmp_path, suffix, content):
    survives(expression.read_expression, tmp_path / f"e{suffix}", content)


@MANY
@given(content=ANYTHING)
def test_gene_table(tmp_path, content):
    survives(expression.read_gene_table, tmp_path / "g.csv", content)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
@MANY
@given(content=ANYTHING)
def test_features(tmp_path, suffix, content):
    survives(lambda path: from_file.read_features(path, "alexnet"), tmp_path / f"f{suffix}", content)


@MANY
@given(content=ANYTHING)
def test_gene_ontology(tmp_path, content):
    survives(gene_ontology.read_obo, tmp_path / "go.obo", content)
    survives(gene_ontology.read_gaf, tmp_path / "go.gaf", content)


@MANY
@given(
    content=st.one_of(
        st.binary(max_size=200), st.text(max_size=200).map(lambda t: t.encode("utf-8", "replace"))
    )
)
def test_cohort_toml(tmp_path, content):
    survives(lambda path: Config.load(str(path)), tmp_path / "c.toml", content)


PORTAL = "Tissue Sample ID,Tissue,Subject ID,Sex,Age Bracket,Hardy Scale,Pathology Categories,Pathology Notes"
GTF = st.lists(
    st.sampled_from(
        [
            'chr1\tx\tgene\t1\t2\t.\t+\t.\tgene_id "ENSG1.1"; gene_name "A"; gene_type "lncRNA";',
            'chr1\tx\tgene\t1\t2\t.\t+\t.\tgene_name "B";',
            "chr1\tx\tgene",
            "#!genome",
            "",
            "\ufffd\tgene\t",
        ]
    ),
    max_size=6,
).map(lambda lines: "\n".join(lines).encode())


@pytest.mark.parametrize("name", ["read_portal", "read_sample_attributes", "read_subject_phenotypes"])
@MANY
@given(content=st.one_of(ANYTHING, tables().map(lambda content: PORTAL.encode() + b"\n" + content)))
def test_gtex_tables(tmp_path, name, content):
    survives(getattr(gtex_tables, name), tmp_path / "t.csv", content)


@MANY
@given(content=st.one_of(ANYTHING, GTF))
def test_gene_models(tmp_path, content):
    survives(gtex_tables.read_gene_models, tmp_path / "genes.gtf", content)


@MANY
@given(content=ANYTHING)
def test_checkpoint(tmp_path, content):
    survives(weights.read_weights, tmp_path / "w.pt", content)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "good.pt"
    torch.save({"state_dict": {"a": torch.ones(3)}, "epoch": 1}, path)
    return path.read_bytes()


@MANY
@given(data=st.data())
def test_damaged_checkpoint(tmp_path, checkpoint, data):
    content = bytearray(checkpoint)
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    survives(
        weights.read_weights, tmp_path / "w.pt", bytes(content[: data.draw(st.integers(1, len(content)))])
    )


@MANY
@given(text=st.text(max_size=100))
def test_settings_of_the_command_line(text):
    try:
        key, value = parse_setting(text)
        Config.checked({"cohort": "mine", key: value})
    except HistocorrError:
        pass
