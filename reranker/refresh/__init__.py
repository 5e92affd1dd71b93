"""The daily loop: yesterday's interactions join a bundle, head and guard follow, and no known text is read again."""

from reranker.refresh.export import exported_user
from reranker.refresh.forget import ForgetReport, forget_users
from reranker.refresh.refresh import RefreshReport, refresh

__all__ = ["ForgetReport", "RefreshReport", "exported_user", "forget_users", "refresh"]
