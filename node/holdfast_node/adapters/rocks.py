"""The index on RocksDB: the only home of rocksdict."""
