"""Each stage can learn eight pairs by heart: L_rec falls tenfold."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from faceshifter.config import CropGeometry, Intervals, Runtime
from faceshifter.data.batches import Fetch, read_pairs
from faceshifter.data.occlusion import Occluders
from faceshifter.data.pairs import Population, draw_pairs
from faceshifter.data.shards import load_faces
from faceshifter.encoders.encoder import load_identity_encoder
from faceshifter.networks import load_aei, packaged_weights
from faceshifter.recipes import AEI_RECIPES, HEAR_RECIPES
from faceshifter.train.aei import AEITraining
from faceshifter.train.distributed import Ranks
from faceshifter.train.hear import HEARTraining
from faceshifter.train.run import Run

CPU = torch.device("cpu")
STEPS = {"aei": 120, "hear": 250}


def overfit(stage: str, data: Path, steps: int) -> list[float]:
    """L_rec of eight fixed pairs, half of them of one photo twice, in each step of ``tiny``."""
    faces = load_faces(data, 128, progress=False)
    people = np.unique([crop.identity for crop in faces.crops], return_inverse=True)[1]
    population = Population(np.arange(len(people)), people)
    encoder = load_identity_encoder("distilled", CropGeometry())
    run = Run(Path(), Ranks(CPU), Runtime(device="cpu"), Intervals())
    training: AEITraining | HEARTraining
    if stage == "aei":
        draws = draw_pairs(population, seed=0, position=0, batch=8, different=0.5)
        pairs = read_pairs(draws, faces).to_pairs(CPU, augmented=False)
        training = AEITraining(AEI_RECIPES["tiny"][1], [encoder], run)
    else:
        config = replace(HEAR_RECIPES["tiny"][1], batch=8)
        fetch = Fetch(config, population, np.arange(len(people)), faces, Occluders())
        pairs = fetch.read(fetch.draw(0, 8), faces, 0).to_pairs(CPU, augmented=False)
        aei, _ = load_aei(packaged_weights() / "aei.safetensors")
        training = HEARTraining(config, aei, [encoder], run)
    return [training.step(step, [pairs])["loss/rec"].item() for step in range(steps)]


@pytest.mark.slow
@pytest.mark.parametrize("stage", STEPS)
def test_eight_pairs_are_learned_by_heart(stage: str, faces_data: Path) -> None:
    losses = overfit(stage, faces_data, STEPS[stage])
    assert min(losses) < losses[0] / 10, losses[::10]
