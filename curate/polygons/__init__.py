"""Polygon datasets: a columnar store of images, annotations, parts and vertices, and what is done with it."""
