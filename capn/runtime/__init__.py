"""Watches, work queue, controller loop, leader lease, manager: everything round a reconcile."""
