"""Language of the caption by CLD3, the identifier of the LAION-2B rule.

`NNetLanguageIdentifier(0, 1000)` on the caption with line feeds turned into blanks. Captions without letters
(empty, blank, digits, punctuation) are "ja": that is what the network says of nothing. Needs the extra
`cld3`, which is built from source. Labels are its own (BCP-47 style, such as "zh-Latn"), not those of the
scorer `language`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curate.scores import Cost, result, text_column
from headwater.errors import MissingExtra

VERSION = 1
COLUMNS = ("text",)
OUTPUT = {"language_cld3": "string", "language_cld3_probability": "float32"}
COST: Cost = "costly"

INSTALL = "apt-get install protobuf-compiler libprotobuf-dev && pip install gcld3"


@dataclass(frozen=True)
class Config:
    """Bytes of a caption that the network looks at, as in DataComp."""

    least_bytes: int = 0  # shorter captions would get no answer
    most_bytes: int = 1000


class Scorer:
    """Names the language of each distinct caption of a batch once."""

    def __init__(self, config: Config) -> None:
        try:
            import gcld3
        except ImportError as failure:
            raise MissingExtra(f"the scorer language_cld3 needs gcld3 ({failure})", hint=INSTALL) from failure
        self.identity = {"gcld3": metadata.version("gcld3")}
        self._identifier: Any = gcld3.NNetLanguageIdentifier(config.least_bytes, config.most_bytes)

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        encoded = pc.dictionary_encode(text_column(batch))
        found = [
            self._identifier.FindLanguage(text)
            for text in pc.replace_substring(encoded.dictionary, "\n", " ").to_pylist()
        ]
        labels = pa.array([answer.language for answer in found], pa.string())
        probabilities = pa.array([answer.probability for answer in found], pa.float32())
        columns = {
            "language_cld3": labels.take(encoded.indices),
            "language_cld3_probability": probabilities.take(encoded.indices),
        }
        return result(columns, OUTPUT)
