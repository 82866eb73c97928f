"""The links and marker pairs of the report: plain data for its tables and cards."""

import base64
import io
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex
from PIL import Image

from lib.explore import report_tables
from lib.explore.report_tables import KEY, MOST_LINKS
from lib.figures import style
from lib.sources import protein_atlas
from lib.statistics import meta_analysis, replication_ledger, spots
from lib.statistics.expression_levels import log2_expression
from lib.store import Store
from lib.visualize import immunostain, pair_cards

MOST_SETS = 12  # of a clump, by p
NO_LEDGER = pd.DataFrame(columns=[*meta_analysis.LEDGER, *replication_ledger.ROLES])
NEEDED = ("links", "link_tissues", "pairs", "pairs_significance", "pairs_conditional")


def payload(store: Store) -> dict[str, Any] | None:
    """One network's links and marker pairs for the page's JSON; None when they are missing or stale.

    Keys: network, synthetic, unit, aggregate, tile_um (width of a tile), covariates, q_threshold,
    r_threshold; samples, tissues, tissue_of (index into tissues, per sample), colours; stratum, strata and
    their colours (what links are tested within: tissues, of spots sections); units (of the ledger, as in
    `report_tables.by_unit`); genes and features (values per sample, by name); tables: "links" and "markers",
    each with rows (`card` an index into cards or null) and n (what they are a selection of); cards (pictures
    as data URIs; finding, and synthetic_note and strip_note: why there are no synthetic images, no strip, or
    ""); plain (of a feature's name: the measure of the tiles that it is most like, and r within the strata);
    sets (of a clump's name: the gene sets that follow it, each [name, genes, of these linked, q]).
    """
    one_tissue = store.n_tissues == 1
    if not all(store.is_current(name) for name in NEEDED[: -1 if one_tissue else None]):
        return None
    config = store.config
    cards_df = store.load("cards") if store.is_current("cards") else pd.DataFrame(columns=KEY)
    links_df, markers_df = store.load("links"), _markers(store)
    links_rows_df, marker_rows_df = _shown(store, links_df, markers_df, cards_df)
    if links_rows_df.empty and marker_rows_df.empty:
        return None
    features_df = store.load("features_test")
    samples_df = store.load("samples").set_index("sample_id")
    colours = style.tissue_colours(samples_df["tissue"], store.reference("gtex_tissues"))
    tissues = sorted(colours)
    drawn_df = pd.concat([links_rows_df[KEY].head(MOST_LINKS), marker_rows_df[KEY]]).astype(str)
    log_df = log2_expression(store.load("expression").loc[drawn_df["gene"].unique(), features_df.columns])
    strata = sorted(spots.strata(samples_df.reset_index()).astype(str).unique())
    ledger_df = store.load("ledger") if store.is_current("ledger") else NO_LEDGER
    units = [str(name) for name in ledger_df["unit"].unique()]
    links = _links(store, links_rows_df, strata, ledger_df, units)
    markers = [report_tables.plain(row) for row in marker_rows_df.to_dict("records")]
    return {
        "network": config.run_name,
        "synthetic": config.synthetic_data,
        "unit": config.value_unit,
        "aggregate": config.aggregate,
        "covariates": list(config.covariates),
        "q_threshold": config.q_threshold,
        "r_threshold": config.r_threshold,
        "tile_um": round(config.tile_um),
        "samples": list(features_df.columns),
        "tissues": tissues,
        "one_tissue": one_tissue,
        "stratum": spots.stratum_name(samples_df.reset_index()),
        "strata": strata,
        "units": units,
        "strata_colours": [to_hex(colours.get(name, "#0072b2")) for name in strata],
        "tissue_of": [tissues.index(t) for t in samples_df.loc[features_df.columns, "tissue"]],
        "colours": [to_hex(colours[tissue]) for tissue in tissues],
        "genes": _values(log_df),
        "features": _values(features_df.loc[drawn_df["feature"].unique()]),
        "tables": {
            "links": {"rows": links, "n": len(links_df)},
            "markers": {"rows": markers, "n": len(markers_df)},
        },
        "plain": _most_like(store, drawn_df["feature"]),
        "sets": _sets(store),
        "cards": _cards(store, cards_df) if len(cards_df) else [],
    }


def _shown(
    store: Store, links_df: pd.DataFrame, markers_df: pd.DataFrame, cards_df: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of the two tables; a card that is no row of the links is one of the marker pairs."""
    links_rows_df = report_tables.links_shown(links_df, cards_df, store.config.q_threshold)
    numbered_df = cards_df.assign(card=np.arange(len(cards_df), dtype=float))
    others_df = numbered_df[~numbered_df["card"].isin(links_rows_df["card"])]
    marker_rows_df = report_tables.markers_shown(markers_df, others_df)
    if store.n_tissues == 1:  # what correlates over all samples does so within the tissue
        marker_rows_df = marker_rows_df[marker_rows_df["card"].notna()]
    return links_rows_df, marker_rows_df


def _links(
    store: Store, rows_df: pd.DataFrame, strata: list[str], ledger_df: pd.DataFrame, units: list[str]
) -> list[dict[str, Any]]:
    """The rows of the table of links: where each holds, and what other samples say of it."""
    where = report_tables.by_tissue(rows_df, store.load("link_tissues"), strata)
    found_there = report_tables.by_unit(rows_df, ledger_df, units)
    counts_df = replication_ledger.counted_elsewhere(ledger_df, store.config.q_threshold)
    rows = map(report_tables.plain, rows_df.join(counts_df, on=KEY).to_dict("records"))
    return [
        row | {"where": at, "units": there} for row, at, there in zip(rows, where, found_there, strict=True)
    ]


def _markers(store: Store) -> pd.DataFrame:
    """The marker pairs at E_T with what notebooks 06 and 07 found for each."""
    alpha = max(store.config.alphas)
    df = store.load("pairs").merge(store.load("pairs_significance"), on=KEY, validate="1:1")
    if store.left_out("07_conditional"):
        return df[df["max_median_log2"] >= store.config.e_threshold].assign(pattern="")
    patterns_df = store.load("pairs_conditional")[[*KEY, f"pattern_{alpha:g}"]]
    df = df.merge(patterns_df.rename(columns={f"pattern_{alpha:g}": "pattern"}), on=KEY, validate="1:1")
    return df[df["max_median_log2"] >= store.config.e_threshold]


def _most_like(store: Store, features: pd.Series) -> dict[str, tuple[str, float]]:
    if not store.is_current("plain_correlates"):
        return {}
    plain_df = store.load("plain_correlates").reindex(features.unique())
    plain_df = plain_df[plain_df["r_most_like"].notna()]
    measures = plain_df["most_like"].str.replace("_", " ")
    return {
        name: (what, round(r, 3))
        for name, what, r in zip(plain_df.index, measures, plain_df["r_most_like"], strict=True)
    }


def _sets(store: Store) -> dict[str, list[list[Any]]]:
    if not (store.config.gene_sets and store.is_current("set_links")):
        return {}
    made: dict[str, list[list[Any]]] = {}
    for row in store.load("set_links").itertuples():
        of_clump = made.setdefault(str(row.feature), [])
        if len(of_clump) < MOST_SETS:
            of_clump.append([row.set, int(row.n_genes), int(row.n_linked), float(f"{row.q:.2g}")])
    return made


def _values(table_df: pd.DataFrame) -> dict[str, list[float]]:
    """Rows of a table by name, to four digits: enough for a scatter plot, at a tenth of the size."""
    rows = zip(table_df.index, table_df.to_numpy(), strict=True)
    return {name: [float(f"{value:.4g}") for value in row] for name, row in rows}


def _cards(store: Store, cards_df: pd.DataFrame) -> list[dict[str, Any]]:
    shown_df, pictures = store.load("card_shown"), store.load("card_pictures")
    made = []
    for card, pair in enumerate(cards_df.itertuples()):
        of_card_df = shown_df[shown_df["card"] == card]
        strip_df = of_card_df[of_card_df["kind"] == "low to high"]
        images = {
            kind: [
                _card_picture(picture) for picture in pair_cards.pictures_of(shown_df, pictures, card, kind)
            ]
            for kind in pair_cards.KINDS
        }
        tile = of_card_df[of_card_df["kind"] == "tile"].iloc[0]
        made.append(
            {
                "tile": images["tile"][0],
                "tile_label": f"{tile['tile_id']}, {tile['tissue']}, {store.config.tile_um:.0f} µm wide",
                "tile_sample": str(tile["sample_id"]),
                "finding": str(pair.finding),
                "synthetic_note": str(pair.synthetic_note),
                "strip_note": str(pair.strip_note),
                "tile_tissue": str(pair.tile_tissue),
                "activation": next(iter(images["activation"]), None),
                "gradient": images["gradient"][0],
                "method": pair.method,
                "synthetic": images["synthetic"],
                "strip": images["low to high"],
                "strip_labels": [f"{t.sample_id}, {t.tissue}: {t.value:.3g}" for t in strip_df.itertuples()],
                **_stained(store, pair),
            }
        )
    return made


def _stained(store: Store, pair: Any) -> dict[str, str | None]:
    """The stained image of a card's gene: ihc (a picture or None), ihc_credit, ihc_page, ihc_note (why there
    is none, where that is known).
    """
    names, tissue = (pair.symbol, pair.gene), str(pair.tile_tissue)
    path, record = store.ihc_path(*names, tissue=tissue), store.ihc_record(*names, tissue=tissue)
    page = record.get("page_url", "")
    return {
        "ihc": _card_picture(immunostain.read_image(path)) if path else None,
        "ihc_credit": protein_atlas.credit(record).replace("\n", "; ") if path and record else "",
        "ihc_page": page if page.startswith(("https://", "http://")) else "",
        "ihc_note": record.get("missing", ""),
    }


def _card_picture(image: np.ndarray, edge_px: int = 224) -> str:
    """A picture of a card as a data URI, at most edge_px wide."""
    picture = Image.fromarray(image)
    picture.thumbnail((edge_px, edge_px))
    return webp(picture, lossless_below=0, quality=85)


def webp(image: Image.Image, lossless_below: int = 200_000, quality: int = 88) -> str:
    """A picture as a data URI: lossless WebP while that is small (charts), else lossy (photographs)."""
    for settings in ({"lossless": True}, {"quality": quality}):
        buffer = io.BytesIO()
        image.save(buffer, "webp", **settings)
        if buffer.tell() <= lossless_below:
            break
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
