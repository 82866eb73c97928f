"""A GTEx cohort from nothing to its tiles: tables of a mirror, slides of a local server."""

import gzip
import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from local_server import serving
from slide_factory import glass, textured, write_slide

from lib.config import ROOT

pytestmark = pytest.mark.slow

TISSUES = ("Liver", "Lung", "Spleen")
COLOURS = ((200, 110, 120), (225, 150, 190), (150, 90, 170))
N_DONORS, N_GENES = 10, 240
TPM = "GTEx_Analysis_2016-01-15_v7_RNASeQCv1.1.8_gene_tpm.gct.gz"
SMALL = [
    *("gtex_tissues=[]", "gtex_max_slides=9", "genes_file=", "tile_px=128", "input_px=64"),
    "split_fractions=[0.4,0.2,0.4]",
]


def samples() -> pd.DataFrame:
    rows = [
        (f"GTEX-{1000 + donor}X-{t + 1:02d}26", tissue, f"GTEX-{1000 + donor}X")
        for donor in range(N_DONORS)
        for t, tissue in enumerate(TISSUES)
    ]
    return pd.DataFrame(rows, columns=["Tissue Sample ID", "Tissue", "Subject ID"])


def write_tables(folder) -> None:
    """Portal table, attributes and TPM: tissue markers, a sample with two RNA samples, a brain region."""
    folder.mkdir(parents=True)
    samples_df = samples().assign(Sex="male", **{"Age Bracket": "50-59", "Pathology Notes": "a, b"})
    samples_df.loc[samples_df.index % 4 == 0, "Sex"] = "female"
    samples_df.loc[samples_df.index % 5 == 0, "Age Bracket"] = "60-69"
    samples_df["Hardy Scale"] = np.where(samples_df.index % 7 == 0, "Slow death", "Ventilator case")
    samples_df.to_csv(folder / "GTExPortal.csv", index=False)
    rng = np.random.default_rng(0)
    ids = [f"{sample}-SM-AAAA{i}" for i, sample in enumerate(samples_df["Tissue Sample ID"])]
    kinds = [TISSUES.index(tissue) for tissue in samples_df["Tissue"]]
    ids, kinds = [*ids, ids[0][:-1] + "X", "GTEX-1001X-0011-R11a-SM-BBBB1"], [*kinds, kinds[0], 1]
    level = np.where(np.arange(N_GENES)[:, None] % 3 == np.array(kinds)[None, :], 7.0, 2.0)
    tpm = np.exp2(level + rng.normal(scale=0.8, size=level.shape))
    lines = [f"#1.2\n{N_GENES}\t{len(ids)}\nName\tDescription\t" + "\t".join(ids)]
    lines += [f"ENSG{g:011d}.1\tG{g}\t" + "\t".join(f"{v:.3f}" for v in tpm[g]) for g in range(N_GENES)]
    (folder / TPM).write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))
    rin, minutes = rng.uniform(6, 9, len(ids)), rng.uniform(60, 900, len(ids))
    attributes_df = pd.DataFrame({"SAMPID": ids, "SMRIN": rin.round(1), "SMTSISCH": minutes.round()})
    (folder.parent / "go").mkdir()  # stand-ins, so that nothing is fetched
    for name in ("go-basic.obo", "goa_human.gaf"):
        (folder.parent / "go" / name).write_bytes(b"")
    attributes_df.to_csv(folder / "GTEx_v7_Annotations_SampleAttributesDS.txt", sep="\t", index=False)


def draw_slides(folder) -> None:
    """A small slide per sample, under the name by which the image service knows it."""
    folder.mkdir()
    for i, row in enumerate(samples().itertuples(index=False)):
        image = glass(640, 768)
        image[64:576, 64:704] = textured(512, 640, seed=i, colour=COLOURS[TISSUES.index(row.Tissue)])
        write_slide(folder / row[0], image)


@pytest.fixture
def image_service(tmp_path):
    draw_slides(tmp_path / "service")
    with serving(folder=tmp_path / "service") as server:
        yield server.base


def test_from_nothing_to_the_tiles(tmp_path, image_service):
    write_tables(tmp_path / "mirror/gtex")
    environment = os.environ | {"HISTOCORR_ROOT": str(tmp_path), "DATA_MIRROR": str(tmp_path / "mirror")}

    def command(*arguments):
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            env=environment,
            cwd=ROOT,
            check=False,
        )

    run_all = ["run_all.py", "--cohort", "gtex", "--set", *SMALL]
    stopped = command(*run_all)
    assert stopped.returncode == 1
    assert "27 of 27 slide files are missing" in stopped.stderr
    assert re.search(r"python -m lib\.gtex download$", stopped.stderr, re.M)
    assert "02_train" in stopped.stdout
    assert "not reached" in stopped.stdout
    steps_df = pd.read_csv(tmp_path / "figures/gtex/cohort_steps.csv", index_col="step")
    assert steps_df.loc["RNA samples whose tissue sample has a slide", "dropped"] == 1
    assert steps_df.loc["slides with RNA", "note"].startswith("1 with several RNA samples")

    fetched = command("-m", "lib.gtex", "download", "--base-url", image_service, "--interval", "0")
    assert fetched.returncode == 0, fetched.stderr
    assert "27 of 27 slides of" in fetched.stdout
    assert "27 downloaded" in fetched.stdout
    slides = sorted((tmp_path / "data/raw/gtex/slides").iterdir())
    assert len(slides) == 27
    slides[2].rename(slides[2].with_stem(slides[2].stem[:-1] + "5"))
    slides[0].unlink()
    (slides[0].parent / "GTEX-9999-0126.svs").write_bytes(slides[1].read_bytes())

    stopped = command(*run_all)
    assert "1 of 27 slide files are missing" in stopped.stderr
    assert "--set missing_slides=go_on" in stopped.stderr
    assert "1 slide files belong to no sample and are not used: 'GTEX-9999-0126.svs'" in stopped.stdout
    assert "of these, with a file that ends in 5 for 6: 1 (" in stopped.stdout
    # The notebooks after the tiles do not depend on the source: test_pipeline runs them.
    done = command(*run_all, "missing_slides=go_on", "--only", "01")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 27 slide files are missing" in done.stdout
    assert "these slides are skipped" in done.stdout
    derived = tmp_path / "data/derived/gtex"
    samples_df = pd.read_parquet(derived / "samples.parquet")
    assert samples_df.groupby("donor")["split"].nunique().eq(1).all()
    assert samples_df[["rin", "ischaemic_time_min"]].notna().all().all()
    slides_df = pd.read_parquet(next(derived.rglob("slides.parquet")))
    assert slides_df["state"].value_counts().to_dict() == {"ok": 26, "failed": 1}
    assert "left_out" in (tmp_path / "figures/gtex/index.html").read_text()
