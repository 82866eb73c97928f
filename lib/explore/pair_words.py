"""A pair of the panel in words, and a feature's tiles from low to high, as HTML; names escaped."""

import base64
import html
import io

import numpy as np
import pandas as pd
from PIL import Image

from lib.explore import correlates, pair_figures
from lib.explore.correlates_table import number
from lib.explore.inspection import Inspection, strip_tiles
from lib.statistics import replication_ledger
from lib.tiles.stored import read_tiles


def pair_in_words(inspection: Inspection, gene: str, feature: str, facts: pd.Series) -> str:
    """What is known of a pair and of its gene, as HTML; names escaped."""
    about = inspection.lookup.genes_df.loc[[gene]].iloc[0]
    symbol = str(about["symbol"])
    text = f"<b>{html.escape(symbol)}</b>"
    if symbol != gene:
        text += f" ({html.escape(gene)})"
    text += (
        f", highest in {html.escape(str(about['tissue']))} (median log₂(1 + {inspection.unit}) "
        f"{about['max_median_log2']:.1f}), and <b>feature {html.escape(feature)}</b>: "
        f"r = <b>{facts['r']:.3f}</b>, given the tissues <b>{number(facts['r_tissues'], 3)}</b>; "
        f"pattern {facts['pattern']}. {html.escape(link_in_words(inspection, gene, feature))}"
    )
    if gene in inspection.genes_df.index:
        q = number(float(inspection.genes_df["q"].loc[gene]))
        text += f" Over all features, the gene has q {q} within tissues."
    return text


def link_in_words(inspection: Inspection, gene: str, feature: str) -> str:
    """What the test of links says of a pair: as in the table of links where the pair is one."""
    links = inspection.lookup.links
    pair_df = pd.DataFrame({"gene": [gene], "feature": [feature]})
    found = correlates.link_test(inspection.lookup, pair_df).iloc[0]
    if links is None or np.isnan(found["p"]):
        return "Not tested within tissues (the gene is below E_T, or nothing varies there)."
    words = f"p {number(found['p'])}, q {number(found['q'])}"
    if not np.isnan(found["r_within"]):
        interval = f"{found['low']:.2f} to {found['high']:.2f}"
        words = f"r within tissues {found['r_within']:.2f} (95 % interval {interval}), {words}"
    of_gene_df = links.links_df[links.links_df["gene"] == gene]
    listed_df = of_gene_df[of_gene_df["feature"] == feature]
    if listed_df.empty:
        return f"Not a link: {words}."
    link = listed_df.iloc[0]
    n_copies = int((of_gene_df["clump"] == link["clump"]).sum())
    words += f"; one of {n_copies} links of clump {link['clump']}, most of it in {link['carried_by']}"
    if "q_validation" in link and not np.isnan(link["r_validation"]):
        words += (
            f"; r {link['r_validation']:.2f} on the validation samples (q {number(link['q_validation'])})"
        )
    return f"A link: {words}.{elsewhere_in_words(inspection.ledger_df, gene, feature)}"


def elsewhere_in_words(ledger_df: pd.DataFrame | None, gene: str, feature: str) -> str:
    """What samples that had no part in finding a link say of it; "" where there are none."""
    if ledger_df is None:
        return ""
    of_pair = (ledger_df["gene"] == gene) & (ledger_df["feature"] == feature)
    others_df = ledger_df[of_pair & ledger_df["role"].isin(replication_ledger.UNSEEN)]
    said = [
        f"{unit['unit']} r {unit['r']:.2f} ({unit['low']:.2f} to {unit['high']:.2f}; n {unit['n']}, "
        f"effective {unit['n_effective']:.1f}; p {number(unit['p'])}, q {number(unit['q'])})"
        for unit in others_df.to_dict("records")
    ]
    agree = f"{int(others_df['same_sign'].sum())} of {len(said)} of the same sign, half by chance"
    return f" In samples that had no part in finding it ({agree}): {'; '.join(said)}." if said else ""


def strip_html(inspection: Inspection, feature: str) -> str:
    """`inspection.strip_tiles` as pictures with captions below; names escaped."""
    strip_df = strip_tiles(inspection, feature)
    figures = []
    for tile, caption in zip(read_tiles(strip_df), pair_figures.strip_captions(strip_df), strict=True):
        buffer = io.BytesIO()
        Image.fromarray(tile).save(buffer, format="jpeg", quality=88)
        source = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
        lines = html.escape(caption).replace("\n", "<br>")
        figures.append(f'<figure><img src="{source}" alt="tile">{lines}</figure>')
    heading = html.escape(pair_figures.strip_heading(strip_df, feature))
    return f'<b>{heading}</b><div class="inspect-strip">{"".join(figures)}</div>'
