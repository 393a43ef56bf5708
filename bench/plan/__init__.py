"""Planned beside measured."""
