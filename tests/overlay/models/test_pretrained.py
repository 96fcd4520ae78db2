"""All parts of training together, without Ray: a network that can't learn 24 phantoms by heart is trained wrongly."""

import numpy as np
import pytest
import torch

from overlay.config import Model, Optimizer
from overlay.images import phantoms
from overlay.images.resize import resize_image
from overlay.models.network import IMAGENET_MEAN, IMAGENET_STD, create_network, normalise
from overlay.training import freezing
from overlay.training.ema import Ema
from overlay.training.losses import sample_losses, soft_targets
from overlay.training.lr_schedule import LearningRateSchedule
from overlay.training.optimizer import build_optimizer
from overlay.training.sampler import SamplePlan


@pytest.mark.slow
def test_24_phantoms_are_learnt_by_heart() -> None:
    config = Optimizer(lr=1e-3)
    drawn = [
        phantoms.draw_phantom(name, seed=0, index=index)[0]
        for name in phantoms.PHANTOM_CLASSES
        for index in range(1, 9)
    ]
    images = torch.from_numpy(np.stack([resize_image(image, 64, "squash") for image in drawn]))
    labels = torch.arange(3).repeat_interleave(8)
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    torch.manual_seed(0)
    network = create_network("resnet18", 3)
    plan = SamplePlan(24, batch_size=12, epochs=16, seed=0)
    optimizer = build_optimizer(network, config)
    schedule = LearningRateSchedule(optimizer, config, plan.steps, plan.steps_per_epoch)
    ema = Ema(network, decay=0.9)
    freezing.apply_freezing(network, Model(), 0)
    for step in range(plan.steps):
        freezing.set_train_mode(network)
        chosen = torch.from_numpy(plan.batch(step))
        logits = network(normalise(images[chosen], mean, std))
        losses, weights = sample_losses(logits, soft_targets(labels[chosen], 3), label_smoothing=0.1)
        (losses.sum() / weights.sum()).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        ema.update(network)
    for trained in (network.eval(), ema.network):
        with torch.inference_mode():
            assert trained(normalise(images, mean, std)).argmax(1).tolist() == labels.tolist()
