"""The Django app: put ``"gws_middleware.django"`` into ``INSTALLED_APPS``, above ``django.contrib.staticfiles``.

Each concept of Django's has a module of its own; importing one costs what Django itself costs, and changes nothing.
"""
