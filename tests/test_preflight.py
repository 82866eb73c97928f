"""The preflight: a cohort that can run, and one with a fault at every stage, all found at once."""

import small_cohort
from conftest import run_command

from lib import preflight
from lib.config import Config
from lib.store import Store


def findings(root, path, kind):
    found = preflight.check(Store(Config.load(str(path)), root=root))
    return [finding.text for finding in found if finding.kind == kind]


def test_a_cohort_that_can_run(tmp_path):
    path = small_cohort.make(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    done = run_command(tmp_path, "--cohort", path, "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no problems: this cohort can run" in done.stdout
    assert "12 samples: 12 slides, 12 donors, 2 tissues" in done.stdout
    assert "12 of 12 slides were opened: 0.4942 to 0.4942 µm/px" in done.stdout
    assert "alexnet takes 64 px on cpu" in done.stdout
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}, "nothing is written"


def test_all_faults_are_found_at_once(tmp_path):
    path = small_cohort.make(tmp_path, expression_unit="CPM", covariates=["rin"])
    raw = tmp_path / "data/raw/mine"
    (raw / "slides/S03.svs").write_bytes(b"no slide")
    (raw / "slides/S04.svs").unlink()
    (raw / "slides/S05.svs").unlink()
    small = tmp_path / "other"
    odd = small_cohort.slide_of_mpp(small, 9.884)
    (raw / "slides/S05.svs").write_bytes(odd.read_bytes())
    problems = findings(tmp_path, path, "problem")
    assert [text.split(":")[0] for text in problems] == [
        "covariates 'rin' are not columns of the samples table; add them, or choose from sample_id, "
        "slide_id, donor, tissue, split, n_tiles, focus, haematoxylin, eosin, nuclear_density, "
        "tissue_fraction",
        problems[1].split(":")[0],
        "1 slides state a resolution that cannot be right",
    ]
    assert "samples do not sum to 1,000,000" in problems[1]
    notes = findings(tmp_path, path, "note")
    assert any("S03.svs is not in a format" in text for text in notes)
    assert any("1 of 12 slides have no file: 'S04'" in text for text in notes)


def test_one_fault_leaves_the_later_stages_their_say(tmp_path):
    path = small_cohort.make(tmp_path)
    (tmp_path / "data/raw/mine/samples.csv").write_text("sample_id\nx\n")
    problems = findings(tmp_path, path, "problem")
    assert len(problems) == 1
    assert "missing column(s) 'slide_id'" in problems[0]
    assert any("of memory" in text for text in findings(tmp_path, path, "ok"))
