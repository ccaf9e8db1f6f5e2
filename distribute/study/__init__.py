"""A fair trial of ways to bring a release to somebody: payloads × methods × seeders × links, repeated, failures counted.

    study(output, options, run_options)     StudyOptions(...)

One machine, one client at a time, every seeder behind a link of a stated rate and delay. Read `options` for what is compared,
`trial` for what is measured, `survival` for how failures count, `link` for what the link is and is not.
"""

from distribute.study.options import LinkSpec, StudyOptions
from distribute.study.running import study

__all__ = ["LinkSpec", "StudyOptions", "study"]
