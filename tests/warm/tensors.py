# SPDX-License-Identifier: GPL-2.0-only
"""A product of matrices, and its gradient."""

import torch

weights = torch.eye(256, requires_grad=True)
loss = (weights @ torch.ones(256, 256)).sum()
loss.backward()
print(int(weights.grad.sum()), flush=True)  # type: ignore[union-attr]
