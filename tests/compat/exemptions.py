"""Exemptions: tests that are known to differ with us, by name, and why.

Each is promised, or what no listener on every Session could avoid. What differs since every row of a bulk write is told
is exempt only where rows are told one by one, which is the way `log`.
"""

import re

__all__ = ["exemption"]

_READ_BACK = (
    "somebody hears of the event, so a value that the database made is read back at once, not when it is asked for"
)
_MET = "somebody hears of deletions, of which there are several: a SELECT asks before which of the rows are there"
_UNSEEN = "a write of a model that no Session executes would be told by nobody, and is refused"

_ALWAYS = {
    "SessionEventsTest::test_sessionmaker_gen_after_session_listen": "calls every listener of before_flush without "
    "its arguments",
    "ClauseAttributesTest::test_clauseelement_accessor": _READ_BACK,
    "ClauseAttributesTest::test_update": _READ_BACK,
    "ClauseAttributesTest::test_multi_update": _READ_BACK,
    "ClauseAttributesTest::test_update_special_comparator": _READ_BACK,
    "DefaultTest::test_insert[not_eager_defaults]": _READ_BACK,
    "OptimizedLoadTest::test_load_expired_on_pending[not_eager_defaults]": _READ_BACK,
    "OptimizedLoadTest::test_load_expired_on_pending_twolevel": _READ_BACK,
    "ComputedDefaultsOnUpdateTest::test_insert_computed[noneager]": _READ_BACK,
    "ComputedDefaultsOnUpdateTest::test_update_computed": _READ_BACK,
    "LifecycleTest::test_attr_not_inserted_fetched": _READ_BACK,
    "MapperEventsTest::test_inheritance": _READ_BACK,
    "MapperEventsTest::test_inheritance_subclass_deferred": _READ_BACK,
    "BatchInsertsTest::test_batch_interaction": _READ_BACK,
    "EagerDefaultsSettingTest::test_eager_default_setting_inserts_no_pks": _READ_BACK,
    "EagerDefaultsSettingTest::test_eager_default_setting_updates": _READ_BACK,
    "EagerDefaultsTest::test_clientsql_update_defaults_nonpresent": _READ_BACK,
    "EagerDefaultsTest::test_server_update_defaults_nonpresent": _READ_BACK,
    "EagerDefaultsTest::test_update_defaults_present_as_expr": _READ_BACK,
    "ServerVersioningTest::test_multi_update": _READ_BACK,
    "ServerVersioningTest::test_update_col": _READ_BACK,
    "ServerVersioningTest::test_update_col_eager_defaults": _READ_BACK,
    "OneToManyManyToOneTest_legacy_style::test_post_update_m2o": _MET,
    "OneToManyManyToOneTest_legacy_style::test_post_update_o2m": _MET,
    "OneToManyManyToOneTest_new_style::test_post_update_m2o": _MET,
    "OneToManyManyToOneTest_new_style::test_post_update_o2m": _MET,
    "SelfReferentialPostUpdateTest::test_one": _MET,
    "RudimentaryFlushTest::test_many_to_one_delete_all": _MET,
    "RudimentaryFlushTest::test_many_to_one_delete_childonly_unloaded": _MET,
    "RudimentaryFlushTest::test_many_to_one_delete_childonly_unloaded_expired": _MET,
    "RudimentaryFlushTest::test_many_to_one_delete_unloaded": _MET,
    "RudimentaryFlushTest::test_one_to_many_delete_all": _MET,
    "SingleCycleM2MTest::test_many_to_many_one": _MET,
    "SingleCycleTest::test_delete_unloaded_m2o": _MET,
    "SingleCycleTest::test_many_to_one_delete_all": _MET,
    "SingleCycleTest::test_one_to_many_delete_all": _MET,
    "AsyncSessionTransactionTest::test_refresh": _UNSEEN,
    "SessionStateTest::test_get_populate_existing": _UNSEEN,
    "BindIntegrationTest::test_bind_through_execute": "hands out a mock for the result, which has no number of rows",
}

_LOOKED = "each row is told with its values: the statement returns them, or a SELECT reads them before or after it"
_HANDED = (
    "a handler of each row is given its record, which the Session loads for it, keeps up to date with the row, and "
    "lets go of once the row is deleted"
)
_REFUSED = "what could not be told rightly is refused by name, before anything is written"
_LISTENED = "listeners of do_orm_execute and before_compile hear of the SELECTs that read the rows as well"


def _of_each_inheritance(test):
    return [f"BulkDMLReturning{tables}InhTest::{test}" for tables in ("Concrete", "Joined", "Single")]


_ROWS = {
    "the rows are returned with all their columns, which are loaded along": [
        *_of_each_inheritance("test_subclass_load_only"),
    ],
    "RETURNING * stands alone, and ours would stand beside it": ["InsertStmtTest::test_insert_returning_star"],
    "a result is read to its end, so that it has no cursor behind it": [
        "CacheAdaptReturningOrderTest::test_returning_keymap_stable_across_cache_hit",
    ],
    "a row that the ORM can load into no object has no record to give to a handler": [
        "DiscriminatorOrPkNoneTest::test_pk_is_null",
        "DiscriminatorOrPkNoneTest::test_pk_not_null_discriminator_null_from_base",
        "DiscriminatorOrPkNoneTest::test_pk_not_null_discriminator_null_from_sub",
    ],
    _REFUSED: [
        *_of_each_inheritance("test_base_class_upsert"),
        *_of_each_inheritance("test_subclass_upsert"),
        "BulkDMLReturningJoinedInhTest::test_autoflush",
        "BulkDMLReturningJoinedInhTest::test_insert_col_key_also_works_currently",
        "BulkDMLReturningJoinedInhTest::test_single_values_returning_fn",
        "InsertStmtTest::test_no_returning_error",
        "InsertStmtTest::test_upsert_populate_existing",
        "UpdateDeleteFromTest::test_delete_using_alias",
        "UpdateDeleteFromTest::test_update_from_alias",
        "UpdateDeleteTest::test_delete_bulk_not_supported",
        "UpdateDeleteTest::test_update_returning_eagerload_propagate",
        "UpdateStmtTest::test_alt_bindparam_names",
    ],
    _HANDED: [
        "EagerLoadTest::test_insert_handles_implicit",
        "InsertStmtTest::test_returning_col_property",
        "M2OEvaluateTest::test_delete_expired",
        "OnUpdatePopulationTest::test_server_onupdate_expired_all_matched",
        "OnUpdatePopulationTest::test_sql_expr_unloaded_expired_all_matched",
        "OnUpdatePopulationTest::test_update_populate_existing",
        "UpdateDeleteTest::test_delete_without_session_sync",
        "UpdateDeleteTest::test_evaluate_before_delete",
        "UpdateStmtTest::test_bulk_update_onupdates",
    ],
    _LISTENED: [
        "ORMExecuteTest::test_autoflush_change",
        "ORMExecuteTest::test_mutate_parameters",
        "ORMExecuteTest::test_override_parameters_executemany",
        "ORMExecuteTest::test_override_parameters_executesingle",
        "ORMExecuteTest::test_update_delete_flags",
        "QueryEventsTest::test_before_compile_delete",
        "QueryEventsTest::test_before_compile_update",
        "UpdateDeleteTest::test_routing_session",
    ],
    _LOOKED: [
        *_of_each_inheritance("test_heterogeneous_keys"),
        *_of_each_inheritance("test_subclass_load_only_doesnt_fetch_cols"),
        "BulkInheritanceTest::test_bulk_insert_joined_inh_return_defaults",
        "BulkInheritanceTest::test_bulk_save_joined_inh_no_defaults",
        "BulkInheritanceTest::test_bulk_save_joined_inh_return_defaults",
        "BulkInheritanceTest::test_bulk_update",
        "BulkInsertUpdateTest::test_bulk_insert",
        "BulkInsertUpdateTest::test_bulk_insert_render_nulls",
        "BulkInsertUpdateTest::test_bulk_save_no_defaults",
        "BulkInsertUpdateTest::test_bulk_save_return_defaults",
        "BulkInsertUpdateTest::test_bulk_save_updated_include_unchanged",
        "BulkInsertUpdateTest::test_bulk_update",
        "BulkIssue6793Test::test_issue_6793",
        "BulkUDTestAltColKeys::test_insert_attrs",
        "BulkUDTestAltColKeys::test_insert_both",
        "BulkUDTestAltColKeys::test_insert_keys",
        "BulkUDTestAltColKeys::test_update_attrs",
        "BulkUDTestAltColKeys::test_update_both",
        "BulkUDTestAltColKeys::test_update_keys",
        "EagerDefaultsTest::test_insert_defaults_bulk_insert",
        "EagerDefaultsTest::test_update_defaults_bulk_update",
        "InheritTest::test_update_from",
        "InsertStmtTest::test_insert_returning_cols_dont_give_me_defaults",
        "InsertStmtTest::test_render_nulls",
        "UpdateDeleteTest::test_auto_synchronize",
        "UpdateDeleteTest::test_bulk_update_synchronize_session",
        "UpdateDeleteTest::test_delete_fetch_returning",
        "UpdateDeleteTest::test_delete_fetch_returning_lambda",
        "UpdateDeleteTest::test_evaluate_dont_refresh_expired_objects",
        "UpdateDeleteTest::test_fetch_dont_refresh_expired_objects",
        "UpdateDeleteTest::test_update_evaluate_w_explicit_returning",
        "UpdateDeleteTest::test_update_fetch_returning",
        "UpdateDeleteTest::test_update_fetch_returning_lambda",
        "UpdateStmtTest::test_bulk_update_no_pk",
        "WriteOnlyBulkTest::test_bulk_delete",
        "WriteOnlyBulkTest::test_bulk_insert",
        "WriteOnlyBulkTest::test_bulk_update",
    ],
}
_BY_ROW = {name: why for why, names in _ROWS.items() for name in names}


def exemption(test, way):
    """Why this test is exempt with hooks attached in this way, or None. The database in its class's name is no part."""
    _, _, name = re.sub(r"_\w+\+[\w.]+(?=::)", "", test).partition("::")
    known = {**_ALWAYS, **_BY_ROW} if way == "log" else _ALWAYS
    return known.get(name) or known.get(name.partition("[")[0])
