# SPDX-License-Identifier: GPL-2.0-only
"""What is sold."""

from django.db import models


class Article(models.Model):
    """One thing, and what it costs."""

    name = models.CharField(max_length=40)
    price = models.IntegerField()
