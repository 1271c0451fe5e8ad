"""Oracle's data dictionary, as far as it says what a user has: what is compared after a test, and what cannot be brought back in place.

Compared is all of this, by the columns named below: objects with their ids, tables with their options and partitions, columns,
constraints, indexes with their expressions and partitions, code, triggers, views, types, sequences (but for their numbers, which
are restarted), synonyms, comments, grants given and received, quotas and the account, database links, policies, jobs, queues,
supplemental logging, and the recycle bin. Not compared is what changes by itself: times, statistics, sizes of segments, whether
code that depends on something is compiled at the moment.

Read are the DBA views, which show all; where a database lacks one, the ALL view of the same name; where it lacks that, too, as
older releases and the stand-in do, or a column of it, it is left out. Names of views and columns: Oracle's Database Reference.
"""

# ruff: noqa: S608 - names of views cannot be bind variables; they stand in this file

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.databases.states import Sql, StatementError

_ABSENT = ("ORA-00942", "ORA-01031", "ORA-04043")  # there is none; it is not for this administrator

_GENERATED_SEQUENCE = "ISEQ$$"  # an identity column's; only its table can restart it


class View(NamedTuple):
    """A view of the dictionary, its name without the prefix, and the columns that must be the same again."""

    name: str
    columns: str
    owners: tuple[str, ...] = ("owner",)  # whose it is: the first of these columns that the view has
    condition: str = ""
    prefixes: tuple[str, ...] = ("dba", "all")
    replaced: bool = False  # a user who has anything in it is never restored, only replaced


COLUMNS = "tab_cols"
_INDEX_OWNER = ("index_owner",)
_TABLE_OWNER = ("table_owner",)

VIEWS = (
    # The stand-in takes 40 ms to find out that a user has no types. They are compared by their own views, and by their source.
    View(
        "objects",
        "object_name, subobject_name, object_type, object_id, temporary, secondary, edition_name",
        condition="object_type <> 'TYPE'",
    ),
    View(
        "tables",
        "table_name, tablespace_name, cluster_name, iot_name, iot_type, pct_free, pct_used, ini_trans, logging, degree, cache, table_lock,"
        " partitioned, temporary, duration, secondary, nested, buffer_pool, flash_cache, cell_flash_cache, row_movement, skip_corrupt,"
        " dependencies, compression, compress_for, read_only, result_cache, clustering, external, hybrid, inmemory, inmemory_priority,"
        " inmemory_compression, default_collation, logical_replication, memoptimize_read, memoptimize_write",
    ),
    View(
        COLUMNS,
        "table_name, column_name, column_id, internal_column_id, data_type, data_type_mod, data_type_owner, data_length, data_precision,"
        " data_scale, nullable, data_default, char_length, char_used, character_set_name, hidden_column, virtual_column, user_generated,"
        " default_on_null, default_on_null_upd, identity_column, evaluation_edition, unusable_before, unusable_beginning, collation",
    ),
    View(
        "constraints",
        "constraint_name, constraint_type, table_name, search_condition, r_owner, r_constraint_name, delete_rule, status, deferrable,"
        " deferred, validated, rely, bad, generated, invalid, view_related, index_owner, index_name, precheck",
    ),
    View("cons_columns", "constraint_name, table_name, column_name, position"),
    View(
        "indexes",
        "index_name, index_type, table_owner, table_name, uniqueness, compression, prefix_length, tablespace_name, pct_free, ini_trans,"
        " logging, status, degree, partitioned, temporary, secondary, buffer_pool, ityp_owner, ityp_name, parameters, domidx_status,"
        " domidx_opstatus, funcidx_status, join_index, visibility, indexing, orphaned_entries",
    ),
    View("ind_columns", "index_name, table_owner, table_name, column_name, column_position, descend, collated_column_id", _INDEX_OWNER),
    View("ind_expressions", "index_name, table_name, column_expression, column_position", _INDEX_OWNER),
    View(
        "ind_partitions", "index_name, partition_name, high_value, partition_position, status, tablespace_name, compression", _INDEX_OWNER
    ),
    View("ind_subpartitions", "index_name, partition_name, subpartition_name, high_value, status, tablespace_name", _INDEX_OWNER),
    View("part_tables", "table_name, partitioning_type, subpartitioning_type, interval, autolist, status, def_tablespace_name"),
    View("part_indexes", "index_name, partitioning_type, subpartitioning_type, locality, alignment, interval"),
    View(
        "tab_partitions",
        "table_name, partition_name, high_value, partition_position, tablespace_name, logging, compression, compress_for, read_only, indexing",
        _TABLE_OWNER,
    ),
    View(
        "tab_subpartitions",
        "table_name, partition_name, subpartition_name, high_value, subpartition_position, tablespace_name, compression, read_only, indexing",
        _TABLE_OWNER,
    ),
    View(
        "lobs",
        "table_name, column_name, tablespace_name, chunk, pctversion, retention_type, cache, logging, encrypt, compression, deduplication,"
        " in_row, securefile",
    ),
    View("encrypted_columns", "table_name, column_name, encryption_alg, salt"),
    View("source", "name, type, line, text"),
    View(
        "triggers",
        "trigger_name, trigger_type, triggering_event, table_owner, base_object_type, table_name, column_name, referencing_names,"
        " when_clause, status, action_type, trigger_body, crossedition, fire_once, apply_server_only",
    ),
    View("trigger_ordering", "trigger_name, referenced_trigger_owner, referenced_trigger_name, ordering_type", ("trigger_owner",)),
    View("views", "view_name, text, type_text, view_type, read_only, bequeath, default_collation"),
    View(
        "types",
        "type_name, typecode, attributes, methods, incomplete, final, instantiable, persistable, supertype_owner, supertype_name",
        prefixes=("dba",),
    ),
    View("type_attrs", "type_name, attr_name, attr_type_owner, attr_type_name, length, precision, scale, attr_no"),
    View("coll_types", "type_name, coll_type, upper_bound, elem_type_owner, elem_type_name, length, precision, scale"),
    View(
        "sequences",
        "sequence_name, min_value, max_value, increment_by, cycle_flag, order_flag, cache_size, scale_flag, extend_flag, sharded_flag,"
        " session_flag, keep_value",
        ("sequence_owner",),
    ),
    View("tab_identity_cols", "table_name, column_name, generation_type, sequence_name, identity_options"),
    View("synonyms", "synonym_name, table_owner, table_name, db_link"),
    View("tab_privs", "grantee, table_name, grantor, privilege, grantable, hierarchy", ("table_schema", "owner")),
    View("col_privs", "grantee, table_name, column_name, grantor, privilege, grantable", ("table_schema", "owner")),
    View("tab_comments", "table_name, table_type, comments", condition="comments IS NOT NULL"),
    View("col_comments", "table_name, column_name, comments", condition="comments IS NOT NULL"),
    View(
        "annotations_usage",
        "object_name, object_type, column_name, domain_owner, domain_name, annotation_name, annotation_value",
        ("annotation_owner", "owner"),
    ),
    View("log_groups", "log_group_name, table_name, log_group_type, always, generated"),
    View("db_links", "db_link, username, host"),
    View("recyclebin", "object_name, original_name, operation, type"),
    # The account, and what it was given.
    View("sys_privs", "privilege, admin_option", ("grantee",), prefixes=("dba",)),
    View("role_privs", "granted_role, admin_option, default_role", ("grantee",), prefixes=("dba",)),
    View("ts_quotas", "tablespace_name, max_bytes", ("username",), prefixes=("dba",)),
    View("users", "default_tablespace, temporary_tablespace, profile, external_name, default_collation", ("username",), prefixes=("dba",)),
    View("proxies", "client, authentication, authorization_constraint, role, proxy_authority", ("proxy",), prefixes=("dba",)),
    # Rows of these are not brought back by DELETE and INSERT, or not with all that hangs on them.
    View("mviews", "mview_name, query, updatable, refresh_mode, refresh_method, build_mode, rewrite_enabled", replaced=True),
    View("mview_logs", "master, log_table, rowids, primary_key, sequence, include_new_values", ("log_owner",), replaced=True),
    View("object_tables", "table_name, table_type_owner, table_type", replaced=True),
    View("xml_tables", "table_name, xmlschema, storage_type", replaced=True),
    View("nested_tables", "table_name, parent_table_name, parent_table_column", replaced=True),
    View("external_tables", "table_name, type_owner, type_name, default_directory_name, reject_limit", replaced=True),
    View("clusters", "cluster_name, cluster_type", replaced=True),
    View("queue_tables", "queue_table, type, object_type", replaced=True),
    View("queues", "name, queue_table, queue_type, enqueue_enabled, dequeue_enabled, max_retries", replaced=True),
    View("flashback_archive_tables", "table_name, flashback_archive_name, status", ("owner_name",), replaced=True),
    View("blockchain_tables", "table_name, row_retention, table_inactivity_retention", ("schema_name", "owner"), replaced=True),
    View("immutable_tables", "table_name, row_retention, table_inactivity_retention", ("schema_name", "owner"), replaced=True),
    # A policy hides rows from the administrator, too. Jobs run by themselves.
    View("policies", "object_name, policy_name, pf_owner, function, enable, policy_type", ("object_owner",), replaced=True),
    View("redaction_policies", "object_name, policy_name, expression, enable", ("object_owner",), prefixes=("",), replaced=True),
    View("jobs", "job, what, interval, broken", ("schema_user",), replaced=True),
    View("scheduler_jobs", "job_name, program_name, job_action, repeat_interval, enabled", replaced=True),
)

# With rows that DELETE and INSERT bring back, or with none. Whatever else a user has leads to its being replaced.
_RESTORED = frozenset(
    [
        *("TABLE", "TABLE PARTITION", "TABLE SUBPARTITION", "INDEX", "INDEX PARTITION", "INDEX SUBPARTITION"),
        *("LOB", "LOB PARTITION", "LOB SUBPARTITION", "VIEW", "SEQUENCE", "SYNONYM", "DATABASE LINK"),
        *("PROCEDURE", "FUNCTION", "PACKAGE", "PACKAGE BODY", "TRIGGER", "TYPE", "TYPE BODY"),
    ]
)
_MARKS = {  # column of the view tables → what it says of a table whose rows are not brought back in place
    "iot_name": "part of an index-organised table",
    "iot_type": "index-organised",
    "cluster_name": "in a cluster",
}
_FLAGS = {"nested": "nested", "external": "external", "hybrid": "partly external", "read_only": "read only", "secondary": "an index's own"}
_LONG = ("LONG", "LONG RAW")  # cannot be copied by INSERT … SELECT

Dictionary = Mapping[str, Counter[tuple[Any, ...]]]  # view → its rows


@dataclass(frozen=True)
class Query:
    """How one view is read in a certain database. `owner` is its bind variable."""

    view: View
    columns: tuple[str, ...]
    table: str
    text: str

    def read(self, sql: Sql, owner: str) -> Counter[tuple[Any, ...]]:
        return Counter(sql.rows(self.text, {"owner": owner}))


class Reader:
    """The dictionary of a certain database: which of the views, and of their columns, it has, is found out once."""

    def __init__(self, sql: Sql) -> None:
        """Raises StatementError where a view cannot be read for another reason than that there is none."""
        found = {view.name: _resolve(sql, view) for view in VIEWS}
        self._queries = {name: query for name, query in found.items() if query is not None}

    @property
    def names(self) -> Sequence[str]:
        """The views that are read, with their columns: what is compared in this database."""
        return [f"{query.table} ({', '.join(query.columns)})" for query in self._queries.values()]

    def read(self, sql: Sql, owner: str) -> Dictionary:
        return {name: query.read(sql, owner) for name, query in self._queries.items()}

    def first_difference(self, sql: Sql, owner: str, expected: Dictionary) -> str:
        """The first view that says something else of `owner` than `expected`; empty where none does. Raises StatementError."""
        return next((name for name, rows in expected.items() if self._queries[name].read(sql, owner) != rows), "")

    def records(self, found: Dictionary, view: str) -> list[dict[str, Any]]:
        """The rows of a view by the names of their columns; none where the database lacks the view."""
        if view not in found:
            return []
        columns = self._queries[view].columns
        return [dict(zip(columns, row, strict=True)) for row in found[view]]

    def obstacle(self, found: Dictionary) -> str:
        """Why a user who has all this can only be replaced; empty where it can be restored in place."""
        return next(iter(self._obstacles(found)), "")

    def _obstacles(self, found: Dictionary) -> list[str]:
        objects, tables = self.records(found, "objects"), self.records(found, "tables")
        kinds = sorted({str(each["object_type"]) for each in objects} - _RESTORED)
        listed = {each["table_name"] for each in tables}
        return [
            *(f"it has a {kind.lower()}" for kind in kinds),
            *(f"it has something in {query.table}" for name, query in self._queries.items() if query.view.replaced and found[name]),
            *(f"{each['object_name']} is a table of objects" for each in objects if _is_unlisted(each, listed)),
            *(f"{each['table_name']} is {what}" for each in tables for column, what in _MARKS.items() if each.get(column)),
            *(f"{each['table_name']} is {what}" for each in tables for column, what in _FLAGS.items() if each.get(column) in ("YES", "Y")),
            *(f"{each['table_name']} has a {each['data_type']}" for each in self.records(found, "tab_cols") if each["data_type"] in _LONG),
            *(
                f"{each['sequence_name']} cannot be restarted"
                for each in self.records(found, "sequences")
                if str(each["sequence_name"]).startswith(_GENERATED_SEQUENCE) or "Y" in (each.get("scale_flag"), each.get("session_flag"))
            ),
        ]


def _is_unlisted(each: Mapping[str, Any], listed: set[Any]) -> bool:
    return each["object_type"] == "TABLE" and each["object_name"] not in listed


def _resolve(sql: Sql, view: View) -> Query | None:
    """How `view` is read here; None where there is no such view."""
    for prefix in view.prefixes:
        table = f"{prefix}_{view.name}" if prefix else view.name
        try:
            there = sql.columns(f"SELECT * FROM {table} WHERE 1 = 0")
        except StatementError as error:
            if any(code in str(error) for code in _ABSENT):
                continue
            raise
        columns = tuple(column for column in view.columns.replace(",", " ").split() if column in there)
        owner = next((column for column in view.owners if column in there), None)
        if columns and owner:
            condition = f" AND {view.condition}" if view.condition else ""
            return Query(view, columns, table, f"SELECT {', '.join(columns)} FROM {table} WHERE {owner} = :owner{condition}")
    return None
