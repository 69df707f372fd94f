# SPDX-License-Identifier: GPL-2.0-only
"""Where what is shown."""

from django.contrib import admin
from django.shortcuts import render
from django.urls import path
from shop.models import Article


def articles(request):
    """Those that cost more than is asked for."""
    found = Article.objects.filter(price__gt=request.GET["above"]).order_by("-price")
    return render(request, "articles.html", {"articles": found})


urlpatterns = [path("admin/", admin.site.urls), path("articles/", articles)]
