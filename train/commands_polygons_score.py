"""`headwater polygons score`: parse, call, render."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from headwater.errors import UsageError
from headwater.options import Settings, common

ANY = click.Path(path_type=Path)
RULES = ("coco", "opencv", "kwimage", "centre")  # curate.polygons.raster's, which is not imported for help
COMPAT = ("kwcoco",)


@click.command("score")
@click.argument("predictions", type=ANY, required=False)
@click.option(
    "--truth", type=ANY, required=True, help="The dataset to score against: a store, COCO, kwcoco …"
)
@click.option("--truth-digest", metavar="HEX", help="Its digest, or 8 digits: another dataset is refused.")
@click.option("--heatmaps", type=ANY, help="Folder of score maps (.npy, .png) named as the images.")
@click.option("--images", type=ANY, help="Folder of the image files, for the digest of their pixels.")
@click.option("-o", "--output", type=ANY, required=True, help="The result to write (.json).")
@click.option(
    "--rule", type=click.Choice(RULES), default="coco", show_default=True, help="How polygons are filled."
)
@click.option("--exact", is_flag=True, help="Every score is a threshold, without bins.")
@click.option("--bins", type=int, default=4096, show_default=True, help="Bins of scores, a power of two.")
@click.option("--threshold", type=float, help="Also the numbers at this score, chosen elsewhere.")
@click.option("--compat", type=click.Choice(COMPAT), help="Also the figures that this evaluator would print.")
@click.option("--no-objects", is_flag=True, help="Pixels only: no COCO figures of boxes and masks.")
@click.option("--category", "counted", multiple=True, help="Count objects of this one; repeatable.")
@click.option("--ignore", "ignored", multiple=True, help="Leave pixels of this category out; repeatable.")
@click.option(
    "--replicates", type=int, default=1000, show_default=True, help="Of the bootstrap over images; 0: none."
)
@click.option("--group-by", metavar="KEY", help="Draw groups of images by this column or key together.")
@common
def score(
    settings: Settings,
    *,
    predictions: Path | None,
    truth: Path,
    truth_digest: str | None,
    heatmaps: Path | None,
    images: Path | None,
    output: Path,
    rule: str,
    exact: bool,
    bins: int,
    threshold: float | None,
    compat: str | None,
    no_objects: bool,
    counted: tuple[str, ...],
    ignored: tuple[str, ...],
    replicates: int,
    group_by: str | None,
) -> dict[str, Any]:
    """Score PREDICTIONS (COCO results, or a dataset with scores) or score maps: exact pixel AP, AUC, F1, and COCO's AP.

    \b
    headwater polygons score found.json --truth vali_imgs691_99b22ad0 --truth-digest 99b22ad0 -o scores.json
    headwater polygons score --heatmaps maps --truth test --compat kwcoco -o scores.json
    """
    from headwater.steps import check_output
    from train.polygon_metrics import Asked, open_sources, run_score

    check_output(output)
    for path in (predictions, truth, heatmaps):
        if path is not None and path.resolve() == output.resolve():
            raise UsageError(f"-o {output}: is an input", hint="write another file")
    asked = Asked(
        rule=rule,
        exact=exact,
        bins=bins,
        compat=compat is not None,
        counted=counted,
        ignored=ignored,
        threshold=threshold,
        replicates=replicates,
        group_by=group_by,
        seed=settings.seed or 0,
        objects=not no_objects,
    )
    sources = open_sources(
        predictions, truth, asked, truth_digest=truth_digest, heatmaps=heatmaps, images=images
    )
    return run_score(sources, asked, output, settings.run_options())
