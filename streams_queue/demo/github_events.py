"""Realistic GitHub webhooks: ten kinds, as large and as deep as the real ones, as many as one likes from one seed.

The parts that repeat (accounts, repositories, apps) are built once and shared between payloads, as the same repository
sends many events; treat payloads as read-only. Median sizes follow GitHub's published examples.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from streams_queue.demo import github_objects as gh

if TYPE_CHECKING:
    # Benchmarks make these payloads where nothing that this package depends on is installed.
    from streams_queue.messages import Payload

MEDIAN_BYTES: Mapping[str, int] = {
    "pull_request": 24_200,
    "workflow_run": 19_300,
    "issue_comment": 13_900,
    "issues": 12_000,
    "check_run": 11_900,
    "release": 7_800,
    "push": 7_300,
    "ping": 6_800,
    "create": 6_500,
    "star": 6_100,
}
"""Median size of each kind as compact JSON, over GitHub's published example payloads."""

WEIGHTS: Mapping[str, int] = {
    "check_run": 26,
    "push": 22,
    "workflow_run": 15,
    "pull_request": 14,
    "issue_comment": 9,
    "issues": 5,
    "create": 4,
    "star": 3,
    "release": 1,
    "ping": 1,
}
"""Percent of the traffic of an organisation that builds and reviews on GitHub."""

_LOGINS = (
    "octocat",
    "hubot",
    "codertocat",
    "ada-l",
    "grace-hopper",
    "margaret-h",
    "alan-t",
    "barbara-l",
    "ken-t",
    "radia-p",
    "lukasz-w",
    "juergen-s",
)
_REPOSITORIES = ("hello-world", "gitbridge", "spoon-knife", "octo-repo", "payments", "docs-site", "mobile-app", "infra")
_LANGUAGES = ("Python", "TypeScript", "Go", "Rust", "Ruby", "HCL")
_LABELS = (
    ("bug", "d73a4a", "Something isn't working"),
    ("enhancement", "a2eeef", "New feature or request"),
    ("good first issue", "7057ff", "Good for newcomers"),
    ("documentation", "0075ca", "Improvements or additions to documentation"),
)
_CHANGES = (
    "Retry the upload when the token has expired",
    "Fix off-by-one in pagination of the audit log",
    "Bump pytest from 8.3.4 to 8.4.0",
    "Ajoute la traduction française – merci à tous 🎉",
    "Rename the worker pool and document its limits",
    "Close the socket before the retry, not after it",
    "Keep the order of events within one repository",
)
_SENTENCES = (
    "Steps to reproduce: open two tabs, sign in on both, then sign out on the first one.",
    "The stack trace points at `queue.get()`, which waits for ever once the producer is gone.",
    "I measured this on a cold cache: **412 ms** before, **96 ms** after, median of 30 runs.",
    'Expected the API to answer `409 Conflict`; it answers `200` with `{"ok": false}` instead.',
    "Could we keep the old name as an alias for one release? Two downstream projects import it.",
    "日本語のコメントも壊れずに届くはずです。 ✅",
    'See the discussion in the design document, section "Ownership", and the follow-up below.',
    "- [x] tests added\n- [x] changelog entry\n- [ ] screenshots",
)
_FILES = (
    "src/app.py",
    "src/queue/worker.py",
    "tests/test_worker.py",
    "docs/how-to/deploy.md",
    "README.md",
    "pyproject.toml",
)
_ZEN = ("Keep it logically awesome.", "Favor focus over features.", "Anything added dilutes everything else.")


@dataclass(frozen=True, slots=True)
class Webhook:
    """One webhook as it arrives.

    Attributes:
        kind: The header X-GitHub-Event.
        delivery_id: The header X-GitHub-Delivery, unique to the event.
        payload: The body.
    """

    kind: str
    delivery_id: str
    payload: Payload


@dataclass(frozen=True, slots=True)
class _Place:
    """A repository and all that is the same in each of its events."""

    full: Payload
    minimal: Payload
    labels: list[Payload]
    milestone: Payload
    installation: Payload


class GitHubEvents:
    """An endless source of webhooks of one organisation.

    Args:
        seed: The same seed gives the same webhooks in the same order.
    """

    def __init__(self, seed: int | str = 0) -> None:
        self._random = random.Random(seed)
        self._people = [gh.user(login, 21_031_000 + 67 * i) for i, login in enumerate(_LOGINS)]
        self._organization = gh.organization("octo-org", 41_548_062)
        self._owner = gh.user("octo-org", 41_548_062, kind="Organization")
        self._places = [self._place(i, name) for i, name in enumerate(_REPOSITORIES)]
        self._app = gh.app(gh.user("github", 9_919, kind="Organization"), "github-actions", 15_368)
        self._builders: Mapping[str, Callable[[], Payload]] = {
            "pull_request": self._pull_request,
            "workflow_run": self._workflow_run,
            "issue_comment": self._issue_comment,
            "issues": self._issues,
            "check_run": self._check_run,
            "release": self._release,
            "push": self._push,
            "ping": self._ping,
            "create": self._create,
            "star": self._star,
        }

    def make(self, kind: str) -> Webhook:
        """Make the next webhook, of the kind asked for (a key of `MEDIAN_BYTES`)."""
        delivery_id = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        return Webhook(kind, delivery_id, self._builders[kind]())

    def take(self, count: int) -> Iterator[Webhook]:
        """Make `count` webhooks, kinds mixed by `WEIGHTS`."""
        kinds, weights = list(WEIGHTS), list(WEIGHTS.values())
        for kind in self._random.choices(kinds, weights, k=count):
            yield self.make(kind)

    # --- the world ---

    def _place(self, index: int, name: str) -> _Place:
        number = 186_853_002 + 7 * index
        minimal = gh.minimal_repository(self._owner, name, number, f"What {name} needs, kept in one place")
        full = gh.repository(
            minimal, language=_LANGUAGES[index % len(_LANGUAGES)], stars=31 * (index + 1), issues=index
        )
        labels = [gh.label(full["url"], text, number + i, color, what) for i, (text, color, what) in enumerate(_LABELS)]
        milestone = gh.milestone(full, self._people[index % len(self._people)], index + 1)
        return _Place(full, minimal, labels, milestone, gh.installation(2_311_000 + index))

    def _person(self) -> Payload:
        return self._random.choice(self._people)

    def _number(self) -> int:
        return self._random.randrange(1, 5_000)

    def _id(self) -> int:
        return self._random.randrange(10**9, 10**10)

    def _sha(self) -> str:
        return f"{self._random.getrandbits(160):040x}"

    def _text(self, sentences: int) -> str:
        return "\n\n".join(self._random.choices(_SENTENCES, k=sentences))

    def _moment(self) -> str:
        pick = self._random.randrange
        return f"2026-03-{pick(1, 29):02d}T{pick(24):02d}:{pick(60):02d}:{pick(60):02d}Z"

    def _envelope(self, place: _Place, sender: Payload, *, with_app: bool = True) -> Payload:
        """Return what stands beside the subject in every event; the rarer kinds come from plain repository hooks."""
        plain: Payload = {"repository": place.full, "sender": sender}
        if not with_app:
            return plain
        return {**plain, "organization": self._organization, "installation": place.installation}

    # --- one builder for each kind ---

    def _push(self) -> Payload:
        place, sender, before, after = self._random.choice(self._places), self._person(), self._sha(), self._sha()
        commits = [self._commit(place, self._sha()) for _ in range(self._random.choice((0, 0, 0, 1, 1, 2)))]
        commits.append(self._commit(place, after))
        return {
            "ref": "refs/heads/main",
            "before": before,
            "after": after,
            "repository": place.full,
            "pusher": {"name": sender["login"], "email": gh.commit_user(sender)["email"]},
            "sender": sender,
            "created": False,
            "deleted": False,
            "forced": False,
            "base_ref": None,
            "compare": f"{place.full['html_url']}/compare/{before[:12]}...{after[:12]}",
            "commits": commits,
            "head_commit": commits[-1],
        }

    def _commit(self, place: _Place, sha: str) -> Payload:
        author = gh.commit_user(self._person())
        return {
            "id": sha,
            "tree_id": self._sha(),
            "distinct": True,
            "message": self._random.choice(_CHANGES),
            "timestamp": self._moment(),
            "url": f"{place.full['html_url']}/commit/{sha}",
            "author": author,
            "committer": author,
            "added": [],
            "removed": [],
            "modified": self._random.sample(_FILES, k=2),
        }

    def _pull_request(self) -> Payload:
        place, sender, number = self._random.choice(self._places), self._person(), self._number()
        action = self._random.choice(("opened", "synchronize", "closed", "labeled", "review_requested"))
        pull = self._pull(place, sender, number, merged=action == "closed")
        return {"action": action, "number": number, "pull_request": pull, **self._envelope(place, sender)}

    def _pull(self, place: _Place, author: Payload, number: int, *, merged: bool) -> Payload:
        head, base, moment = self._sha(), self._sha(), self._moment()
        reviewer = self._person()
        return {
            **self._pull_links(place, number, head),
            "id": self._id(),
            "node_id": gh.node_id("PullRequest", number),
            "number": number,
            "state": "closed" if merged else "open",
            "locked": False,
            "title": self._random.choice(_CHANGES),
            "user": author,
            "body": self._text(3),
            "created_at": moment,
            "updated_at": moment,
            "closed_at": moment if merged else None,
            "merged_at": moment if merged else None,
            "merge_commit_sha": self._sha(),
            "assignee": author,
            "assignees": [author],
            "requested_reviewers": [reviewer],
            "requested_teams": [],
            "labels": self._random.sample(place.labels, k=2),
            "milestone": None,
            "head": self._pull_side(place, author, "feature/retry", head),
            "base": self._pull_side(place, self._owner, "main", base),
            **self._pull_state(merged=merged),
        }

    def _pull_links(self, place: _Place, number: int, head: str) -> Payload:
        api, site = place.full["url"], place.full["html_url"]
        links = {
            "self": f"{api}/pulls/{number}",
            "html": f"{site}/pull/{number}",
            "issue": f"{api}/issues/{number}",
            "comments": f"{api}/issues/{number}/comments",
            "review_comments": f"{api}/pulls/{number}/comments",
            "review_comment": f"{api}/pulls/comments{{/number}}",
            "commits": f"{api}/pulls/{number}/commits",
            "statuses": f"{api}/statuses/{head}",
        }
        named = {"self": "url", **{name: f"{name}_url" for name in links if name != "self"}}
        return {
            **{named[name]: url for name, url in links.items()},
            "diff_url": f"{site}/pull/{number}.diff",
            "patch_url": f"{site}/pull/{number}.patch",
            "_links": {name: {"href": url} for name, url in links.items()},
        }

    def _pull_side(self, place: _Place, account: Payload, ref: str, sha: str) -> Payload:
        return {"label": f"{account['login']}:{ref}", "ref": ref, "sha": sha, "user": account, "repo": place.full}

    def _pull_state(self, *, merged: bool) -> Payload:
        return {
            "author_association": "MEMBER",
            "auto_merge": None,
            "active_lock_reason": None,
            "draft": False,
            "merged": merged,
            "mergeable": None if merged else True,
            "rebaseable": None if merged else True,
            "mergeable_state": "unknown" if merged else "clean",
            "merged_by": self._person() if merged else None,
            "comments": self._random.randrange(12),
            "review_comments": self._random.randrange(12),
            "maintainer_can_modify": True,
            "commits": self._random.randrange(1, 9),
            "additions": self._random.randrange(900),
            "deletions": self._random.randrange(400),
            "changed_files": self._random.randrange(1, 40),
        }

    def _issues(self) -> Payload:
        place, sender = self._random.choice(self._places), self._person()
        action = self._random.choice(("opened", "edited", "closed", "labeled", "assigned"))
        return {"action": action, "issue": self._issue(place, sender), **self._envelope(place, sender)}

    def _issue(self, place: _Place, author: Payload) -> Payload:
        number, moment = self._number(), self._moment()
        api = f"{place.full['url']}/issues/{number}"
        return {
            "url": api,
            "repository_url": place.full["url"],
            "labels_url": f"{api}/labels{{/name}}",
            "comments_url": f"{api}/comments",
            "events_url": f"{api}/events",
            "html_url": f"{place.full['html_url']}/issues/{number}",
            "id": self._id(),
            "node_id": gh.node_id("Issue", number),
            "number": number,
            "title": self._random.choice(_CHANGES),
            "user": author,
            "labels": self._random.sample(place.labels, k=2),
            "state": "open",
            "locked": False,
            "assignee": author,
            "assignees": [author],
            "milestone": place.milestone,
            "comments": self._random.randrange(30),
            "created_at": moment,
            "updated_at": moment,
            "closed_at": None,
            "author_association": "CONTRIBUTOR",
            "active_lock_reason": None,
            "body": self._text(3),
            "reactions": gh.reactions(api, thumbs_up=self._random.randrange(5)),
            "timeline_url": f"{api}/timeline",
            "performed_via_github_app": None,
            "state_reason": None,
        }

    def _issue_comment(self) -> Payload:
        place, sender = self._random.choice(self._places), self._person()
        issue = self._issue(place, self._person())
        comment = self._comment(place, sender, issue)
        return {"action": "created", "issue": issue, "comment": comment, **self._envelope(place, sender)}

    def _comment(self, place: _Place, author: Payload, issue: Payload) -> Payload:
        number, moment = self._id(), self._moment()
        api = f"{place.full['url']}/issues/comments/{number}"
        return {
            "url": api,
            "html_url": f"{issue['html_url']}#issuecomment-{number}",
            "issue_url": issue["url"],
            "id": number,
            "node_id": gh.node_id("IssueComment", number),
            "user": author,
            "created_at": moment,
            "updated_at": moment,
            "author_association": "MEMBER",
            "body": self._text(4),
            "reactions": gh.reactions(api),
            "performed_via_github_app": None,
        }

    def _workflow_run(self) -> Payload:
        place, sender = self._random.choice(self._places), self._person()
        action = self._random.choice(("requested", "in_progress", "completed"))
        workflow = self._workflow(place)
        run = self._run(place, sender, workflow, done=action == "completed")
        return {"action": action, "workflow_run": run, "workflow": workflow, **self._envelope(place, sender)}

    def _workflow(self, place: _Place) -> Payload:
        site = place.full["html_url"]
        number = 2_823_525 + place.full["id"] % 97
        return {
            "id": number,
            "node_id": gh.node_id("Workflow", number),
            "name": "test",
            "path": ".github/workflows/test.yml",
            "state": "active",
            "created_at": "2024-10-02T12:42:30.000Z",
            "updated_at": "2025-10-03T19:24:48.000Z",
            "url": f"{place.full['url']}/actions/workflows/{number}",
            "html_url": f"{site}/blob/main/.github/workflows/test.yml",
            "badge_url": f"{site}/workflows/test/badge.svg",
        }

    def _run(self, place: _Place, actor: Payload, workflow: Payload, *, done: bool) -> Payload:
        number, suite, sha, moment = self._id(), self._id(), self._sha(), self._moment()
        api = f"{place.full['url']}/actions/runs/{number}"
        parts = ("artifacts", "cancel", "jobs", "logs", "rerun")
        return {
            "id": number,
            "name": workflow["name"],
            "node_id": gh.node_id("WorkflowRun", number),
            "head_branch": "main",
            "head_sha": sha,
            "path": workflow["path"],
            "display_title": self._random.choice(_CHANGES),
            "run_number": self._number(),
            "run_attempt": 1,
            "event": "push",
            "status": "completed" if done else "queued",
            "conclusion": "success" if done else None,
            "workflow_id": workflow["id"],
            "check_suite_id": suite,
            "check_suite_node_id": gh.node_id("CheckSuite", suite),
            "check_suite_url": f"{place.full['url']}/check-suites/{suite}",
            "url": api,
            "html_url": f"{place.full['html_url']}/actions/runs/{number}",
            **{f"{part}_url": f"{api}/{part}" for part in parts},
            "previous_attempt_url": None,
            "workflow_url": workflow["url"],
            "pull_requests": [self._pull_reference(place, sha)],
            "created_at": moment,
            "updated_at": moment,
            "run_started_at": moment,
            "actor": actor,
            "triggering_actor": actor,
            "referenced_workflows": [],
            "head_commit": self._head_commit(sha),
            "repository": place.minimal,
            "head_repository": place.minimal,
        }

    def _head_commit(self, sha: str) -> Payload:
        author = gh.commit_user(self._person())
        return {
            "id": sha,
            "tree_id": self._sha(),
            "message": self._random.choice(_CHANGES),
            "timestamp": self._moment(),
            "author": {"name": author["name"], "email": author["email"]},
            "committer": {"name": "GitHub", "email": "noreply@github.com"},
        }

    def _pull_reference(self, place: _Place, sha: str) -> Payload:
        number = self._number()
        repo = {"id": place.full["id"], "url": place.full["url"], "name": place.full["name"]}
        return {
            "url": f"{place.full['url']}/pulls/{number}",
            "id": self._id(),
            "number": number,
            "head": {"ref": "feature/retry", "sha": sha, "repo": repo},
            "base": {"ref": "main", "sha": self._sha(), "repo": repo},
        }

    def _check_run(self) -> Payload:
        place, sender = self._random.choice(self._places), self._person()
        action = self._random.choice(("created", "completed"))
        run = self._check(place, done=action == "completed")
        return {"action": action, "check_run": run, **self._envelope(place, sender)}

    def _check(self, place: _Place, *, done: bool) -> Payload:
        number, sha = self._id(), self._sha()
        api = f"{place.full['url']}/check-runs/{number}"
        pull = self._pull_reference(place, sha)
        return {
            "id": number,
            "name": self._random.choice(("lint", "unit tests (3.11)", "unit tests (3.13)", "build wheel")),
            "node_id": gh.node_id("CheckRun", number),
            "head_sha": sha,
            "external_id": str(uuid.UUID(int=self._random.getrandbits(128))),
            "url": api,
            "html_url": f"{place.full['html_url']}/runs/{number}",
            "details_url": f"{place.full['html_url']}/actions/runs/{number}/job/1",
            "status": "completed" if done else "queued",
            "conclusion": "success" if done else None,
            "started_at": self._moment(),
            "completed_at": self._moment() if done else None,
            "output": self._check_output(api),
            "check_suite": self._suite(place, sha, pull, done=done),
            "app": self._app,
            "pull_requests": [pull],
        }

    def _check_output(self, api: str) -> Payload:
        return {
            "title": "Summary",
            "summary": self._text(1),
            "text": None,
            "annotations_count": 0,
            "annotations_url": f"{api}/annotations",
        }

    def _suite(self, place: _Place, sha: str, pull: Payload, *, done: bool) -> Payload:
        number, moment = self._id(), self._moment()
        return {
            "id": number,
            "node_id": gh.node_id("CheckSuite", number),
            "head_branch": "feature/retry",
            "head_sha": sha,
            "status": "completed" if done else "queued",
            "conclusion": "success" if done else None,
            "url": f"{place.full['url']}/check-suites/{number}",
            "before": self._sha(),
            "after": sha,
            "pull_requests": [pull],
            "app": self._app,
            "created_at": moment,
            "updated_at": moment,
        }

    def _release(self) -> Payload:
        place, sender = self._random.choice(self._places), self._person()
        return {
            "action": "published",
            "release": self._published(place, sender),
            **self._envelope(place, sender, with_app=False),
        }

    def _published(self, place: _Place, author: Payload) -> Payload:
        number, moment = self._id(), self._moment()
        tag = f"v{self._random.randrange(9)}.{self._random.randrange(20)}.{self._random.randrange(9)}"
        api, site = place.full["url"], place.full["html_url"]
        return {
            "url": f"{api}/releases/{number}",
            "assets_url": f"{api}/releases/{number}/assets",
            "upload_url": f"https://uploads.github.com/repos/{place.full['full_name']}/releases/{number}/assets{{?name,label}}",
            "html_url": f"{site}/releases/tag/{tag}",
            "id": number,
            "author": author,
            "node_id": gh.node_id("Release", number),
            "tag_name": tag,
            "target_commitish": "main",
            "name": tag,
            "draft": False,
            "prerelease": False,
            "created_at": moment,
            "published_at": moment,
            "assets": [],
            "tarball_url": f"{api}/tarball/{tag}",
            "zipball_url": f"{api}/zipball/{tag}",
            "body": self._text(2),
        }

    def _create(self) -> Payload:
        place, sender = self._random.choice(self._places), self._person()
        return {
            "ref": f"feature/{self._number()}-{sender['login']}",
            "ref_type": self._random.choice(("branch", "tag")),
            "master_branch": "main",
            "description": place.full["description"],
            "pusher_type": "user",
            **self._envelope(place, sender, with_app=False),
            "installation": place.installation,
        }

    def _star(self) -> Payload:
        place, sender = self._random.choice(self._places), self._person()
        return {"action": "created", "starred_at": self._moment(), **self._envelope(place, sender, with_app=False)}

    def _ping(self) -> Payload:
        place, sender = self._random.choice(self._places), self._person()
        number = self._random.randrange(10**8, 10**9)
        hook = self._hook(place, number)
        return {
            "zen": self._random.choice(_ZEN),
            "hook_id": number,
            "hook": hook,
            **self._envelope(place, sender, with_app=False),
        }

    def _hook(self, place: _Place, number: int) -> Payload:
        api, moment = f"{place.full['url']}/hooks/{number}", self._moment()
        return {
            "type": "Repository",
            "id": number,
            "name": "web",
            "active": True,
            "events": ["*"],
            "config": {"content_type": "json", "insecure_ssl": "0", "url": "https://gitbridge.example.com/webhook"},
            "updated_at": moment,
            "created_at": moment,
            "url": api,
            "test_url": f"{api}/test",
            "ping_url": f"{api}/pings",
            "deliveries_url": f"{api}/deliveries",
            "last_response": {"code": None, "status": "unused", "message": None},
        }


def gitbridge_event(source: random.Random) -> dict[str, Any]:
    """
    Make one event in GitBridge's own small form, about 0.3 KB.

    Args:
        source: Where chance comes from; the same state gives the same event.
    """
    return {
        "event_type": source.choice(("push", "pull_request", "issues")),
        "repo": f"octo-org/{source.choice(_REPOSITORIES)}",
        "user": source.choice(_LOGINS),
        "message": f"{source.choice(_CHANGES)} (#{source.randrange(5_000)})",
        "files": source.sample(_FILES, k=4),
        "timestamp": f"2026-03-{source.randrange(1, 29):02d}T{source.randrange(24):02d}:00:00Z",
        "retry_count": 0,
    }
