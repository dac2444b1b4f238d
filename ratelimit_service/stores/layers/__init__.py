"""Layers between the service and a store; each is a CounterStore over the next one."""
