"""The gene-feature pairs of the report: plain data for its table and cards."""

import base64
import io
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex
from PIL import Image

from lib.figures import style
from lib.statistics.expression_levels import log2_expression
from lib.store import Store
from lib.visualize import immunostain, pair_cards, pair_choice

N_BY_R = 300  # pairs in the table: this many genes by their highest |r| ...
N_WITHIN = 300  # ... and by their highest partial r given all tissues


def payload(store: Store) -> dict[str, Any] | None:
    """One network's pairs for the page's JSON; None when their tests are missing or stale.

    Keys: network, unit, n_pairs, tile_um (width of a tile); samples, tissues, tissue_of (index into tissues,
    per sample), colours; genes and features (values per sample, by name); rows (a dict per pair, `card` an
    index into cards or null); cards (pictures as data URIs; finding, and synthetic_note and strip_note: why
    there are no synthetic images, no strip, or "").
    """
    if not (store.is_current("pairs_conditional") and store.is_current("pairs_significance")):
        return None
    config = store.config
    tested_df = pair_choice.pairs_with_tests(
        store.load("pairs_conditional"), store.load("pairs_significance"), max(config.alphas)
    )
    no_cards_df = pd.DataFrame(columns=["gene", "feature"])
    cards_df = store.load("cards") if store.is_current("cards") else no_cards_df
    rows_df = shown_pairs(tested_df[tested_df["max_median_log2"] >= config.e_threshold], cards_df)
    if rows_df.empty:
        return None
    features_df = store.load("features_test")
    log_df = log2_expression(store.load("expression").loc[rows_df["gene"].unique(), features_df.columns])
    samples_df = store.load("samples").set_index("sample_id")
    colours = style.tissue_colours(samples_df["tissue"], store.reference("gtex_tissues"))
    tissues = sorted(colours)
    of_sample = samples_df.loc[features_df.columns, "tissue"]
    return {
        "network": config.run_name,
        "unit": config.expression_unit,
        "aggregate": config.aggregate,
        "n_pairs": len(tested_df),
        "tile_um": round(config.tile_um),
        "samples": list(features_df.columns),
        "tissues": tissues,
        "tissue_of": [tissues.index(tissue) for tissue in of_sample],
        "colours": [to_hex(colours[tissue]) for tissue in tissues],
        "genes": _values(log_df),
        "features": _values(features_df.loc[rows_df["feature"].unique()]),
        "rows": [_plain(row) for row in rows_df.to_dict("records")],
        "cards": _cards(store, cards_df) if len(cards_df) else [],
    }


def shown_pairs(tested_df: pd.DataFrame, cards_df: pd.DataFrame) -> pd.DataFrame:
    """Pairs of the table: those with a card, then each gene's best by |r| and by r given the tissue.

    Returns
    -------
    DataFrame with columns of `pair_choice.pairs_with_tests` and card (number, or missing): those with a card
    first, in the order of the cards; then by q within tissues, ties by |r|.
    """
    key = ["gene", "feature"]
    agreement = (tested_df["r_partial"] * np.sign(tested_df["r"])).rename("by")
    best = []
    for by, n in ((tested_df["r"].abs().rename("by"), N_BY_R), (agreement, N_WITHIN)):
        ranked_df = tested_df.assign(by=by).sort_values("by", ascending=False, kind="stable")
        best.append(ranked_df.drop_duplicates("gene").head(n).drop(columns="by"))
    numbered_df = cards_df.assign(card=np.arange(len(cards_df)))
    parts = [numbered_df.reindex(columns=[*pair_choice.PAIR_COLUMNS, "card"]), *best]
    rows_df = pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)
    rows_df = rows_df.drop_duplicates(key)
    if "card" not in rows_df:
        rows_df["card"] = np.nan
    order_df = rows_df.assign(by=-rows_df["r"].abs()).sort_values(["card", "q_within_tissue", "by"])
    return rows_df.loc[order_df.index].reset_index(drop=True)


def _values(table_df: pd.DataFrame) -> dict[str, list[float]]:
    """Rows of a table by name, to four digits: enough for a scatter plot, at a tenth of the size."""
    rows = zip(table_df.index, table_df.to_numpy(), strict=True)
    return {name: [float(f"{value:.4g}") for value in row] for name, row in rows}


def _plain(row: Mapping[Hashable, Any]) -> dict[str, Any]:
    """A table row for JSON: no NaN, no numpy types, numbers to four digits."""
    plain: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, float | np.floating):
            plain[str(name)] = float(f"{value:.4g}") if np.isfinite(value) else None
        else:
            plain[str(name)] = None if pd.isna(value) else str(value)
    plain["card"] = None if plain["card"] is None else int(plain["card"])
    return plain


def _cards(store: Store, cards_df: pd.DataFrame) -> list[dict[str, Any]]:
    shown_df, pictures = store.load("card_shown"), store.load("card_pictures")
    made = []
    for card, pair in enumerate(cards_df.itertuples()):
        of_card_df = shown_df[shown_df["card"] == card]
        strip_df = of_card_df[of_card_df["kind"] == "low to high"]
        path = store.ihc_path(pair.symbol, pair.gene)
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
                "finding": str(pair.finding),
                "synthetic_note": str(pair.synthetic_note),
                "strip_note": str(pair.strip_note),
                "tile_tissue": str(pair.tile_tissue),
                "gradient": images["gradient"][0],
                "method": pair.method,
                "synthetic": images["synthetic"],
                "strip": images["low to high"],
                "strip_labels": [f"{t.sample_id}, {t.tissue}: {t.value:.3g}" for t in strip_df.itertuples()],
                "ihc": _card_picture(immunostain.read_image(path)) if path else None,
            }
        )
    return made


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
