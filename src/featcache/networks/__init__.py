"""Backbones: names, weights and the engines that run them. Images and heads are other rooms."""
