"""Tests of ``gws_middleware.groups``."""
