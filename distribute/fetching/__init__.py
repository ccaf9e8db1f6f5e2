"""The parts of `headwater fetch`: resolve ── plan ── board ── workers ── place ── record."""
