"""Ordinary asyncio around the core. Services meet the world through `ports` and import no library of it."""
