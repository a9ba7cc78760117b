from __future__ import annotations

from typing import Any

import pytest

from shards.common.errors import InputError
from trainer.config import Config
from trainer.recipe import Augment, Penalty, Schedule


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"schedule": Schedule(lr_g=1e-5)}, r"^--schedule\.lr-g needs --schedule\.images"),
        ({"schedule": Schedule(images=100)}, r"^--schedule\.images needs a value"),
        ({"schedule": Schedule(images=-1, lr_g=0.1)}, r"^--schedule\.images is -1; it must be at least 0"),
        ({"schedule": Schedule(images=1, lr_d=-1.0)}, r"^--schedule\.lr-d is -1.0; it must be at least 0"),
        ({"schedule": Schedule(images=1, beta2=1.0)}, r"^--schedule\.beta2 is 1.0; .* less than 1"),
        ({"schedule": Schedule(images=1, ema_images=0)}, r"^--schedule\.ema-images is 0; it must be at least 1"),
        ({"schedule": Schedule(images=1, ema_images=9), "ema_images": 0}, r"^--schedule\.ema-images needs an average"),
        ({"schedule": Schedule(images=1, beta2=0.1), "cuda_graphs": True}, r"CUDA graph"),
        ({"schedule": Schedule(images=1, augment=0.5)}, r"^--schedule\.augment needs --augment\.policy"),
        ({"schedule": Schedule(images=1, augment=2.0), "augment": Augment("cutout")}, r"^--schedule\.augment is 2.0"),
        ({"augment": Augment("cutout", 1.1)}, r"^--augment\.probability is 1.1; it must be a share from 0 to 1"),
        ({"augment": Augment("cutout", float("nan"))}, r"^--augment\.probability is nan"),
        *(
            (
                {"augment": Augment(policy)},
                r"^--augment\.policy is .*; it must be none, or .* color, translation, cutout",
            )
            for policy in ("", "colour", "color,", "color, cutout", "cutout,cutout", "none,color", "\n")
        ),
        ({"penalty": Penalty(r1=-0.1)}, r"^--penalty\.r1 is -0.1"),
        ({"penalty": Penalty(r2=float("nan"))}, r"^--penalty\.r2 is nan"),
        ({"penalty": Penalty(r1=float("inf"))}, r"^--penalty\.r1 is inf"),
        ({"penalty": Penalty(every=0)}, r"^--penalty\.every is 0; it must be at least 1"),
    ],
)
def test_values_that_contradict_each_other_are_one_line(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as found:
        Config(**wrong)
    assert "\n" not in str(found.value)


def test_penalties_are_those_with_a_weight_at_some_time() -> None:
    assert Config().penalties == ()
    assert Config(penalty=Penalty(r2=1.0)).penalties == ("r2",)
    assert Config(penalty=Penalty(r2=1.0), schedule=Schedule(images=1, r1=0.5, r2=0.0)).penalties == ("r1", "r2")
