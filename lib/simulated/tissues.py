"""
Eight recognisable tissues, drawn from the building blocks of `lib.simulated.drawing`.

Each function takes the coarse grid of a slide and returns amounts of haematoxylin and eosin, and nuclei.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from lib.simulated.drawing import (
    Field,
    Ground,
    cells,
    contour,
    directions,
    distance_to,
    enlarge,
    look_up,
    noise,
    nuclei,
    ridge,
    rounded,
    scatter,
    soft,
    spread,
    stamp,
    stripes,
    unwarped,
)


def _adipose(f: Field) -> Ground:
    """Clear fat cells with thin walls, a few fibrous septa, flat nuclei pressed against the walls."""
    _, _, border = cells(f, scatter(f, 46 * f.lumen**0.8, 0.2))
    septum = ridge(f, 420) - (5 + 4 * noise(f.rng, len(f.x), 40))
    distance = np.minimum(border, septum)
    wall = soft(2.1 - enlarge(distance, f.size_px), 0.5)
    fibrous = soft(-enlarge(septum, f.size_px), 1.0)
    points = contour(f, border, 1.0, spread(f, 19), 3.5)
    walls = nuclei(f, points, 4.6, 2.3, directions(f, border, points))
    points = scatter(f, spread(f, 11))
    points = points[look_up(septum, points) < -1]
    septa = nuclei(f, points, 5.5, 1.9, directions(f, septum, points))
    e = 0.05 + 0.50 * wall + 0.15 * fibrous
    return Ground(0.012 + 0.10 * wall, e, np.vstack([walls, septa]))


def _thyroid(f: Field) -> Ground:
    """Follicles of unequal size: pink colloid, shrunk from its ring of cuboidal cells; thin stroma."""
    n = len(f.x)
    seeds = scatter(f, 62 * f.lumen**0.4, 0.30)
    index, centre, border = cells(f, seeds)
    border = rounded(seeds, index, centre, border)
    stroma, epithelium = 1.5, 9.5
    d = enlarge(border, f.size_px)
    clear = 0.30 * soft(-enlarge(border + 6, f.size_px), 1.5)
    retreat = 2.6 * f.lumen**1.8 * f.rng.uniform(0.6, 1.4, len(seeds)).astype(np.float32)[index]
    retreat = retreat + 1.1 * noise(f.rng, n, 4)
    inner = soft(d - epithelium, 0.6)
    colloid = soft(enlarge(border - epithelium - retreat, f.size_px), 0.8)
    shade = enlarge(0.62 + 0.24 * f.rng.random(len(seeds)).astype(np.float32)[index], f.size_px)
    ring = soft(d - stroma, 0.5) * (1 - inner)
    e = 0.42 * (1 - soft(d - stroma, 0.5)) * (1 - clear) + 0.50 * ring + inner * (0.04 + colloid * shade)
    h = 0.05 + 0.22 * ring - 0.04 * inner
    points = contour(f, border, 5.4, spread(f, 9.6), 4.0)
    flat = contour(f, border, 0.2, spread(f, 17), 2.0)
    return Ground(
        h, e, np.vstack([nuclei(f, points, 3.4), nuclei(f, flat, 5.0, 1.7, directions(f, border, flat))])
    )


def _skin(f: Field) -> Ground:
    """Flaky keratin, squamous epidermis with dark basal cells and rete ridges, collagen bundles, clefts."""
    n = len(f.x)
    along, across = stripes(f, f.rng.choice([0, 0.5, 1, 1.5]) * np.pi + f.rng.normal(0, 0.12))
    along, across = along - along.mean(), across - across.mean()
    depth = across + 0.38 * f.size_um + 14 * noise(f.rng, n, 130)
    period = f.rng.uniform(70, 110)
    ridges = 17 * np.sin(2 * np.pi * along / period + 1.5 * noise(f.rng, n, 60)) + 9 * noise(f.rng, n, 30)
    base = 108 + ridges  # depth of the basement membrane
    corneum, d = 34.0, enlarge(depth, f.size_px)
    to_base = enlarge(base - depth, f.size_px)
    _, _, bundles = cells(
        f._replace(x=along * 0.22 + 6 * noise(f.rng, n, 90), y=across * 1.2), _bundle_seeds(f, along, across)
    )
    cleft = soft(
        1.9 * f.lumen**1.7 - 0.6 + 0.5 * enlarge(noise(f.rng, n, 9), f.size_px) - enlarge(bundles, f.size_px),
        0.5,
    )
    flakes = np.sin(d / 1.7 + 3 * enlarge(noise(f.rng, n, 14), f.size_px))
    keratin = soft(d, 1.0) * soft(corneum - d, 1.5)
    epidermis = soft(d - corneum, 1.5) * soft(to_base, 1.0)
    dermis = soft(-to_base, 1.0)
    granular = epidermis * soft(corneum + 11 - d, 2.0)
    basal = epidermis * soft(15 - to_base, 3.0)
    _, _, membrane = cells(f, scatter(f, 12.5))
    e = keratin * (0.62 + 0.22 * flakes) + epidermis * (
        0.62 - 0.10 * soft(enlarge(membrane, f.size_px) - 1.2, 0.5)
    )
    e = e + dermis * (0.74 - 0.66 * cleft) - 0.14 * basal
    h = 0.02 * dermis + 0.16 * epidermis + 0.30 * granular + 0.28 * basal
    points = scatter(f, spread(f, 12), 0.2)
    deep, height = look_up(depth, points), look_up(base - depth, points)
    squamous = points[(deep > corneum + 9) & (height > 14)]
    basal_points = contour(f, base - depth, 6.5, spread(f, 6.6), 6.0)
    basal_points = basal_points[look_up(depth, basal_points) > corneum]
    fibro = scatter(f, spread(f, 22))
    fibro = fibro[look_up(base - depth, fibro) < -6]
    table = [
        nuclei(f, squamous, 4.0, 3.3, dark=0.9),
        nuclei(f, basal_points, 3.9, 2.9, directions(f, base - depth, basal_points) + np.pi / 2, dark=1.1),
        nuclei(f, fibro, 6.0, 1.9, directions(f, ndimage.gaussian_filter(depth, 4), fibro)),
    ]
    return Ground(h, e, np.vstack(table))


def _bundle_seeds(f: Field, along: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Seeds of collagen bundles in the stretched plane (0.22 along, 1.2 across) of the dermis."""
    low = np.array([along.min() * 0.22, across.min() * 1.2])
    high = np.array([along.max() * 0.22, across.max() * 1.2])
    count = int(np.prod(high - low) / 15.0**2)
    return f.rng.uniform(low, high, (count, 2))


def _muscle(f: Field) -> Ground:
    """Parallel striated fibres of varying width, pale clefts between them, flat nuclei at their edges."""
    n = len(f.x)
    angle = f.rng.uniform(0, np.pi)
    along, across = stripes(f, angle)
    across = across + 10 * noise(f.rng, n, 170)
    edges = np.cumsum(f.rng.uniform(19, 36, 120)) - 900
    place = np.clip(np.searchsorted(edges, across), 1, len(edges) - 1)
    edge = np.minimum(across - edges[place - 1], edges[place] - across).astype(np.float32)
    gap = 1.5 * f.lumen**1.5 * (1 + 0.45 * noise(f.rng, n, 22))
    inside = soft(enlarge(edge - gap, f.size_px), 0.5)
    tone = enlarge(f.rng.normal(0, 0.07, len(edges)).astype(np.float32)[place], f.size_px)
    phase = f.rng.uniform(0, 6.28, len(edges)).astype(np.float32)[place] * 0.5 + 1.2 * noise(f.rng, n, 25)
    striation = np.sin(2 * np.pi * enlarge(along, f.size_px) / 3.6 + enlarge(phase, f.size_px))
    e = 0.06 + inside * (0.80 + tone + 0.12 * striation)
    points = contour(f, edge, 1.6, spread(f, 13.5), 3.0)
    tilt = directions(f, ndimage.gaussian_filter(across, 2), points)
    inner = scatter(f, spread(f, 60))
    table = np.vstack([nuclei(f, points, 5.4, 1.9, tilt), nuclei(f, inner, 1.8, 1.6)])
    return Ground(0.03 + 0.05 * inside + 0.03 * striation * inside, e, table)


def _cerebellum(f: Field) -> Ground:
    """A granular layer packed with small dark nuclei, Purkinje cells at its rim, a pale molecular layer."""
    n = len(f.x)
    along, across = stripes(f, f.rng.uniform(0, 2 * np.pi))
    period = f.rng.uniform(300, 420)
    wave = (
        across
        - across.mean()
        + 95 * np.sin(2 * np.pi * along / period + f.rng.uniform(0, 6))
        + 16 * noise(f.rng, n, 90)
    )
    fold = np.abs((wave / 250 + f.rng.uniform(-0.1, 0.1)) % 2 - 1) - 0.5  # -0.5..0.5: granular below zero
    depth = 250 * fold
    d = enlarge(depth, f.size_px)
    molecular = soft(d, 3.0)
    vessels = scatter(f, 36, 0.3)
    radius = 3.6 * f.lumen**1.5
    clear = soft(radius - enlarge(distance_to(f, vessels), f.size_px), 0.6)
    fibrils = enlarge(noise(f.rng, n, 3), f.size_px)
    e = (0.32 + 0.06 * molecular + 0.05 * fibrils) * (1 - 0.9 * clear)
    h = (0.17 - 0.10 * molecular) * (1 - 0.9 * clear)
    packed = scatter(f, spread(f, 7.4), 0.2)
    packed = packed[(look_up(depth, packed) < -5) & (look_up(noise(f.rng, n, 9), packed) > -0.9)]
    loose = scatter(f, spread(f, 24))
    loose = loose[look_up(depth, loose) > 14]
    purkinje = contour(f, depth, 4.0, 46, 18.0)
    bodies = np.column_stack(
        [
            purkinje,
            np.full((len(purkinje), 2), (13.0, 8.0)),
            directions(f, depth, purkinje) + 1.57,
            np.full(len(purkinje), 0.30),
        ]
    )
    table = [
        nuclei(f, packed, 2.6, 2.4, dark=1.1),
        nuclei(f, loose, 2.9, 2.4),
        nuclei(f, purkinje, 4.2, dark=0.5),
        bodies,
    ]
    e = e + 1.0 * stamp(bodies, f.size_px, f.rng)
    return Ground(h, e, np.vstack(table))


def _liver(f: Field) -> Ground:
    """Plates of polygonal hepatocytes with round nuclei, sinusoids between them, a central vein or two."""
    n = len(f.x)
    seeds = scatter(f, spread(f, 17.5), 0.17)
    index, _, border = cells(f, seeds)
    along, across = stripes(f, f.rng.uniform(0, np.pi))
    along, across = along + 22 * noise(f.rng, n, 110), across + 22 * noise(f.rng, n, 110)
    plates = scatter(f._replace(size_px=2 * f.size_px), 25, 0.3) - f.size_um
    _, _, sinus = cells(f._replace(x=along * 0.5, y=across), plates)
    veins = f.rng.uniform(0.2, 0.8, (f.rng.integers(1, 3), 2)) * f.size_um
    vein = f.rng.uniform(22, 34) - distance_to(f, veins) + 3 * noise(f.rng, n, 12)
    width = 1.7 * f.lumen**1.4
    open_space = np.maximum(soft(enlarge(width - sinus, f.size_px), 0.6), soft(enlarge(vein, f.size_px), 0.6))
    membrane = soft(0.9 - enlarge(border, f.size_px), 0.5)
    tone = enlarge(f.rng.normal(0, 0.05, len(seeds)).astype(np.float32)[index], f.size_px)
    clumps = enlarge(noise(f.rng, n, 2.6), f.size_px)
    e = (0.74 + tone + 0.10 * membrane + 0.06 * clumps) * (1 - 0.88 * open_space)
    h = (0.15 + 0.05 * clumps) * (1 - 0.95 * open_space)
    centre = unwarped(f, seeds)
    centre = centre[(look_up(sinus, centre) > width * 0.8) & (look_up(vein, centre) < -4)]
    lining = contour(f, sinus, 0.8 * width, spread(f, 24), 3.0)
    lining = lining[look_up(vein, lining) < 2]
    table = [
        nuclei(f, centre, 3.7, 3.6, dark=0.85),
        nuclei(f, lining, 4.6, 1.5, directions(f, sinus, lining), dark=1.1),
    ]
    return Ground(h, e, np.vstack(table))


def _gland(f: Field, round_bodies: int, capsule: bool) -> Ground:
    """
    Round nests of epithelium: kidney tubules and pancreatic acini are two ends of one scale, `likeness`.

    Towards the tubule: pink cells, nuclei half-way up, a wider lumen. Towards the acinus: a blue base, basal
    nuclei, pink granules at the tip, a narrow lumen. The two tissues overlap and are meant to be confused.
    """
    n, t = len(f.x), f.likeness
    seeds = scatter(f, 43 - 2.0 * t, 0.2)
    index, centre, border = cells(f, seeds)
    border = rounded(seeds, index, centre, border)
    bodies, body = np.empty((0, 2)), np.full(f.x.shape, -99, np.float32)
    if round_bodies:
        bodies = f.rng.uniform(0.2, 0.8, (round_bodies, 2)) * f.size_um
        body = 44 - distance_to(f, bodies) + 3 * noise(f.rng, n, 20)
    size = f.rng.normal(1, 0.18, len(seeds)).astype(np.float32)[index]
    lumen = (5.4 - 0.4 * t) * f.lumen**1.4 * size + 0.9 * noise(f.rng, n, 4) - centre
    gap = 1.1 - border
    outside_body = soft(-enlarge(body, f.size_px), 0.7)
    open_space = soft(enlarge(lumen, f.size_px), 0.7) * outside_body
    stroma = soft(enlarge(gap, f.size_px), 0.5) * outside_body
    clear = soft(-enlarge(border + 2.5, f.size_px), 0.7) * outside_body
    base = soft(7.5 - enlarge(border, f.size_px), 1.8)
    clumps = enlarge(noise(f.rng, n, 2.4), f.size_px)
    e = 0.66 - 0.035 * t + (0.05 + 0.05 * t) * (1 - base) + 0.05 * clumps
    h = 0.15 + 0.01 * t + (0.12 + 0.10 * t) * base
    e, h = (
        e * (1 - 0.92 * open_space) * (1 - 0.4 * stroma - 0.5 * clear),
        h * (1 - 0.95 * open_space) * (1 - 0.5 * stroma - 0.4 * clear),
    )
    height = 7.0 - 0.8 * t  # of the row of nuclei over the basement membrane
    points = scatter(f, spread(f, 9.0), 0.2)
    points = points[np.abs(look_up(border, points) - height) < 2.6]
    points = points[(look_up(lumen, points) < -3) & (look_up(body, points) < -1)]
    between = contour(f, border, 0.3, spread(f, 24), 2.0)
    table = [nuclei(f, points, 3.3, 3.1), nuclei(f, between, 4.6, 1.5, directions(f, border, between))]
    ground = Ground(h, e, np.vstack(table))
    return _tuft(f, ground, body, capsule) if round_bodies else ground


def _tuft(f: Field, ground: Ground, body: np.ndarray, capsule: bool) -> Ground:
    """Fill the inside of `body` (> 0): loops in a clear capsule (glomerulus) or a pale nest (islet)."""
    inside = soft(enlarge(body, f.size_px), 0.7)
    clefts = soft((1.4 if capsule else 0.8) - enlarge(ridge(f, 24), f.size_px), 0.6)
    ring = soft(6.0 - enlarge(body, f.size_px), 0.7) if capsule else 0.0
    white = np.clip(clefts * 0.8 + ring, 0, 1)
    e = ground.e * (1 - inside) + inside * (0.52 * (1 - white) + 0.04)
    h = ground.h * (1 - inside) + inside * (0.12 * (1 - white) + 0.01)
    points = scatter(f, spread(f, 8.6))
    points = points[look_up(body, points) > (8 if capsule else 2)]
    outside = look_up(body, ground.nuclei[:, :2]) < 0
    return Ground(h, e, np.vstack([ground.nuclei[outside], nuclei(f, points, 3.3, 2.8)]))


def _kidney(f: Field) -> Ground:
    """Tubules, with a glomerulus or two on most slides."""
    return _gland(f, int(f.rng.poisson(1.2)), capsule=True)


def _pancreas(f: Field) -> Ground:
    """Acini, with an islet or two on most slides."""
    return _gland(f, int(f.rng.poisson(1.2)), capsule=False)


TISSUES: dict[str, Callable[[Field], Ground]] = {
    "Adipose - Subcutaneous": _adipose,
    "Thyroid": _thyroid,
    "Skin - Sun Exposed (Lower leg)": _skin,
    "Muscle - Skeletal": _muscle,
    "Brain - Cerebellum": _cerebellum,
    "Liver": _liver,
    "Kidney - Cortex": _kidney,
    "Pancreas": _pancreas,
}
HARD_PAIR = ("Kidney - Cortex", "Pancreas")
