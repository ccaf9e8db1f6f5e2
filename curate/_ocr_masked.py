"""Score of a picture whose text is filled in against its caption, by the model in a folder (the T-MARS idea)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headwater.errors import MissingInput, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

CARD = "scorer.json"  # what headwater score train writes


class Masked:
    """An open_clip folder (such as a run of headwater train), or a scorer that headwater score train has written.

    Its files are digested at once, the model is built with the first picture. Pictures and captions are encoded one by one on one
    thread, so that a score depends on nothing else.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self._device = device
        self._encode: Any = None
        self.trained = (folder.expanduser() / CARD).is_file()
        self._folder = folder.expanduser()
        if self.trained:
            from curate.scorer_training import read_card, towers_of

            card = read_card(self._folder)
            towers_of(self._folder, card)
            towers = {f"masked tower {role}": sha256 for role, sha256 in card.towers.digests.items()}
            made = {"masked projections": card.projections_sha256, "masked pairs": card.trained_sha256}
            self.identity = {**made, **towers}
            return
        from curate._clip_source import local_folder, source_of

        if local_folder(folder) is None:
            if folder.expanduser().exists():
                raise UsageError(
                    f"--model {folder}: is a file", hint="name an open_clip folder, or a trained scorer"
                )
            raise MissingInput(f"{folder}: no such folder of a model")
        self._source = source_of("", folder)
        self.identity = {f"masked {key}": value for key, value in self._source.identity.items()}

    def score(self, image: Image, caption: str, *, uid: str, unmasked: Image) -> float:
        """Cosine of picture and caption on the grid of float16, as the scorer clip gives it.

        A trained scorer judges a pair that it has learnt from by the models that have not seen it, which uid and the picture
        without the mask tell.
        """
        import torch

        from curate._pair_rows import device_of

        with _one_thread(torch):
            if self._encode is None:
                device = device_of(self._device)
                self._encode = self._open_trained(device) if self.trained else self._open_clip(device)
            picture, text = self._encode(image, caption, uid, unmasked)
        return float(np.float16(np.float32(np.asarray(picture, np.float32) @ np.asarray(text, np.float32))))

    def _open_clip(self, device: str) -> Any:
        import torch

        from curate._clip_source import open_source

        model = open_source(self._source, device)

        def encode(image: Image, caption: str, uid: str, unmasked: Image) -> tuple[Any, Any]:
            batch = torch.stack([model.transform(image)])
            return model.encode_images(batch)[0], model.encode_texts([caption])[0]

        return encode

    def _open_trained(self, device: str) -> Any:
        from curate._pairs import difference_hash
        from curate.scorer_training import load_scorer
        from curate.towers import open_towers

        scorer = load_scorer(self._folder)
        towers, made = open_towers(scorer.towers, device=device), scorer.projections

        def encode(image: Image, caption: str, uid: str, unmasked: Image) -> tuple[Any, Any]:
            use = scorer.trained.use([uid], [caption], [difference_hash(unmasked)])
            rows = made.pictures(towers.pictures([towers.prepare(image)]), use)
            return rows[0], made.texts(towers.texts([caption]), use)[0]

        return encode


@contextmanager
def _one_thread(torch: Any) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
