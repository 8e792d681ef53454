"""What tests of applications use: a clean slate for each test, and a say in which failures were expected."""

from earnorm.testing.failures import Failures, UnexpectedFailures, expect_failures
from earnorm.testing.isolation import isolated
from earnorm.testing.rollback import rolled_back

__all__ = ["Failures", "UnexpectedFailures", "expect_failures", "isolated", "rolled_back"]
