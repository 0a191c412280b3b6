"""The comparison's four stages in Bytewax: parse JSON, filter, map, discard. INPUT names the file of JSON lines."""

import json
import os

import bytewax.operators as op
from bytewax.connectors.files import FileSource
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition


class Discard(DynamicSink):
    class Partition(StatelessSinkPartition):
        def write_batch(self, items):
            pass

    def build(self, step_id, worker_index, worker_count):
        return Discard.Partition()


flow = Dataflow("versus")
lines = op.input("read", flow, FileSource(os.environ["INPUT"], batch_size=1000))
events = op.map("parse", lines, json.loads)
kept = op.filter("filter", events, lambda event: event["status"] >= 500)
mapped = op.map("map", kept, lambda event: {"route": event["path"], "seconds": event["millis"] / 1000})
op.output("discard", mapped, Discard())
