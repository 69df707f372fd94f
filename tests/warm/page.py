# SPDX-License-Identifier: GPL-2.0-only
# ruff: noqa: I001  # an application's models can be imported when Django is set up
"""A request to a shop: URL configuration, middleware, view, a database in memory, a template."""

from shop.wsgi import application
from shop.models import Article
from django.db import connection
from django.test import Client

assert application
with connection.schema_editor() as editor:
    editor.create_model(Article)
Article.objects.bulk_create(Article(name=f"article {number}", price=number) for number in range(10))
answer = Client().get("/articles/", {"above": 4})
print(answer.status_code, answer.content.decode().count("<li>"), flush=True)
