"""What runs in the child: standard library, msgpack and what the zygote already imported."""
