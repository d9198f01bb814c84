"""The command ``ablate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import arg

from faceshifter import recipes
from faceshifter.cli.options import make_folder
from faceshifter.config import AEITrainConfig, Intervals, Runtime

if TYPE_CHECKING:
    from faceshifter.train.ablate import Embed

FullRecipe = tyro.extras.subcommand_type_from_defaults(
    {name: recipes.AEI_RECIPES[name][1] for name in recipes.AEI_PRESETS},
    {name: recipes.AEI_RECIPES[name][0] for name in recipes.AEI_PRESETS},
)
RUNTIME, INTERVALS = Runtime(), Intervals()


def ablate(
    *,
    data: Path,
    out: Path,
    recipe: Annotated[FullRecipe, arg(name="")],  # type: ignore[valid-type]
    recogniser: Path | None = None,
    runtime: Annotated[Runtime, arg(name="")] = RUNTIME,
    every: Intervals = INTERVALS,
) -> None:
    """Train AEI-Net, Add, Cat and Compressed alike, and compare them (Figure 7).

    The same command goes on where a killed one was; what is trained is not trained again.

    Args:
        data: Folder that prepare wrote.
        out: Folder for the four runs, the table and the picture.
        recipe: A complete configuration, of AEI-Net; its fields can be changed by the flags behind
            its name.
        recogniser: ONNX network of 112 x 112 ArcFace crops that is not used in training, to
            measure with too.
        runtime: Where and how to compute.
        every: How often each run reports, is watched and is saved.
    """
    assert isinstance(recipe, AEITrainConfig)
    embed = None if recogniser is None else _load(recogniser, recipe)
    make_folder(out)
    from faceshifter.train.ablate import ablate as run_ablate
    from faceshifter.train.ablate import markdown

    result = run_ablate(recipe, data, out, embed=embed, runtime=runtime, intervals=every)
    if result is None:
        print(f"stopped; give the same command again to go on in {out}")
        return
    print("\n".join(markdown(result)))
    print(f"\n{out / 'ablation.png'} shows the first of these pairs")


def _load(recogniser: Path, recipe: AEITrainConfig) -> "Embed":
    """The recogniser, on crops whose landmarks are where the geometry has them."""
    import numpy as np

    from faceshifter.evaluate.networks import Recogniser, refuse_training_recogniser
    from faceshifter.model_files import sha256

    used = [
        {"name": spec} | ({"sha256": sha256(Path(spec))} if Path(spec).is_file() else {})
        for spec in (recipe.identity, *recipe.teachers)
    ]
    refuse_training_recogniser(recogniser, {"teachers": used})
    network = Recogniser(recogniser)
    landmarks = np.array(recipe.model.geometry.points) * recipe.model.image_size - 0.5
    return lambda crops: network.embed([network.crop(crop, landmarks) for crop in crops])
