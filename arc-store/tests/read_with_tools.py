"""Reads a store without this project: pyarrow and DuckDB, as docs/store.md describes the format.

Prints one JSON object: for each document that is in the store, its metadata and its latents.
"""
import json
import pathlib
import sys
import zlib

import duckdb
import numpy as np
import pyarrow.parquet as pq

store = pathlib.Path(sys.argv[1])
manifest = json.loads(max((store / "manifests").glob("*.json")).read_text())
d = manifest["d_encoder"]
documents, rows = {}, 0
for segment in manifest["segments"]:
    removed = set(segment.get("removed", []))
    file = pq.ParquetFile(store / segment["file"])
    metadata = {k.decode(): v.decode() for k, v in file.metadata.metadata.items() if k != b"ARROW:schema"}
    assert metadata["arc_store.encoder_id"] == manifest["encoder_id"], metadata
    assert metadata["arc_store.latents"] == segment["latents"], metadata
    assert file.metadata.num_rows == segment["rows"]
    centroids = None
    if segment["latents"] == "pq":
        table = pq.read_table(store / segment["codebooks"]).to_pydict()
        stages, parts = max(table["stage"]) + 1, max(table["subspace"]) + 1
        values = np.frombuffer(b"".join(table["centroid"]), "<f4")
        centroids = values.reshape(stages, parts, 256, d // parts)
    for row in file.read().to_pylist():
        rows += 1
        assert zlib.crc32(row["latents"]) == row["latents_crc32"]
        if segment["latents"] == "pq":
            codes = np.frombuffer(row["latents"], np.uint8).reshape(row["latent_count"], stages, parts)
            latents = sum(
                centroids[s][np.arange(parts), codes[:, s]].reshape(row["latent_count"], d)
                for s in range(stages)
            )
        else:
            kind = {"f16": "<f2", "f32": "<f4"}[segment["latents"]]
            latents = np.frombuffer(row["latents"], kind).reshape(row["latent_count"], d)
        pooled = np.frombuffer(row["pooled"], np.int8) * row["pooled_scale"]
        if segment["latents"] != "pq":
            exact = latents.astype(np.float32).mean(0)
            assert np.abs(pooled - exact).max() <= row["pooled_scale"] * 0.51 + 1e-3, "the pooled vector"
        if row["document_id"] in removed:
            continue
        document = documents.setdefault(row["document_id"], {
            "title": row["title"], "source_uri": row["source_uri"], "sha256": row["source_sha256"],
            "factor": row["factor"], "tokens": 0, "chunks": row["chunks"], "latents": [], "text": "",
        })
        document["tokens"] += row["tokens"]
        document["text"] += row["text"]
        document["latents"] += latents.astype(np.float64).ravel().tolist()

files = [str(store / segment["file"]) for segment in manifest["segments"]]
counted = duckdb.sql(
    f"SELECT count(*), count(DISTINCT document_id), sum(tokens), sum(latent_count) FROM read_parquet({files})"
).fetchall()[0]
by_id = duckdb.sql(
    f"SELECT document_id, sum(octet_length(latents)) FROM read_parquet({files}) GROUP BY 1"
).fetchall()
print(json.dumps({
    "rows": rows,
    "documents": documents,
    "duckdb": [int(value) for value in counted],
    "latent_bytes": {k: int(v) for k, v in by_id},
    "pyarrow": __import__("pyarrow").__version__,
}))
