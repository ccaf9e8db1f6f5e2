"""Publishing: releases, content addresses and the networks that carry them."""
