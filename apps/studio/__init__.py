"""The Studio: the page on which people sample from models, watch runs and steer them.

A thin skin over `lab`: it reads run directories by cursor and asks the engine process for everything that needs a
model, so closing it harms no run. Each panel is one file of plain functions and one script under `assets/`.
"""
