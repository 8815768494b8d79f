"""The objects that GitHub's webhook payloads are made of, with the fields and link templates that GitHub documents.

Source: https://docs.github.com/en/webhooks/webhook-events-and-payloads
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # Benchmarks make these payloads where nothing that this package depends on is installed.
    from streams_queue.messages import Payload


API = "https://api.github.com"
SITE = "https://github.com"

_USER_LINKS = {
    "followers_url": "/followers",
    "following_url": "/following{/other_user}",
    "gists_url": "/gists{/gist_id}",
    "starred_url": "/starred{/owner}{/repo}",
    "subscriptions_url": "/subscriptions",
    "organizations_url": "/orgs",
    "repos_url": "/repos",
    "events_url": "/events{/privacy}",
    "received_events_url": "/received_events",
}
_ORGANIZATION_LINKS = {
    "repos_url": "/repos",
    "events_url": "/events",
    "hooks_url": "/hooks",
    "issues_url": "/issues",
    "members_url": "/members{/member}",
    "public_members_url": "/public_members{/member}",
}
_REPOSITORY_LINKS = {
    "forks_url": "/forks",
    "keys_url": "/keys{/key_id}",
    "collaborators_url": "/collaborators{/collaborator}",
    "teams_url": "/teams",
    "hooks_url": "/hooks",
    "issue_events_url": "/issues/events{/number}",
    "events_url": "/events",
    "assignees_url": "/assignees{/user}",
    "branches_url": "/branches{/branch}",
    "tags_url": "/tags",
    "blobs_url": "/git/blobs{/sha}",
    "git_tags_url": "/git/tags{/sha}",
    "git_refs_url": "/git/refs{/sha}",
    "trees_url": "/git/trees{/sha}",
    "statuses_url": "/statuses/{sha}",
    "languages_url": "/languages",
    "stargazers_url": "/stargazers",
    "contributors_url": "/contributors",
    "subscribers_url": "/subscribers",
    "subscription_url": "/subscription",
    "commits_url": "/commits{/sha}",
    "git_commits_url": "/git/commits{/sha}",
    "comments_url": "/comments{/number}",
    "issue_comment_url": "/issues/comments{/number}",
    "contents_url": "/contents/{+path}",
    "compare_url": "/compare/{base}...{head}",
    "merges_url": "/merges",
    "archive_url": "/{archive_format}{/ref}",
    "downloads_url": "/downloads",
    "issues_url": "/issues{/number}",
    "pulls_url": "/pulls{/number}",
    "milestones_url": "/milestones{/number}",
    "notifications_url": "/notifications{?since,all,participating}",
    "labels_url": "/labels{/name}",
    "releases_url": "/releases{/id}",
    "deployments_url": "/deployments",
}
_APP_PERMISSIONS = {
    "actions": "write",
    "administration": "read",
    "checks": "write",
    "contents": "write",
    "deployments": "write",
    "issues": "write",
    "metadata": "read",
    "packages": "write",
    "pages": "write",
    "pull_requests": "write",
    "repository_hooks": "write",
    "repository_projects": "write",
    "security_events": "write",
    "statuses": "write",
    "vulnerability_alerts": "read",
}
_REACTIONS = ("+1", "-1", "laugh", "hooray", "confused", "heart", "rocket", "eyes")


def node_id(kind: str, number: int) -> str:
    """Return the opaque id that GitHub's GraphQL interface would use."""
    return base64.b64encode(f"0{len(kind)}:{kind}{number}".encode()).decode()


def _links(base: str, templates: Mapping[str, str]) -> dict[str, str]:
    return {name: base + template for name, template in templates.items()}


def user(login: str, number: int, *, kind: str = "User") -> Payload:
    """Build an account: a person, a bot or an organisation as an owner."""
    return {
        "login": login,
        "id": number,
        "node_id": node_id(kind, number),
        "avatar_url": f"https://avatars.githubusercontent.com/u/{number}?v=4",
        "gravatar_id": "",
        "url": f"{API}/users/{login}",
        "html_url": f"{SITE}/{login}",
        **_links(f"{API}/users/{login}", _USER_LINKS),
        "type": kind,
        "site_admin": False,
    }


def organization(login: str, number: int) -> Payload:
    """Build the organisation that stands beside the repository."""
    return {
        "login": login,
        "id": number,
        "node_id": node_id("Organization", number),
        "url": f"{API}/orgs/{login}",
        **_links(f"{API}/orgs/{login}", _ORGANIZATION_LINKS),
        "avatar_url": f"https://avatars.githubusercontent.com/u/{number}?v=4",
        "description": "",
    }


def minimal_repository(owner: Payload, name: str, number: int, description: str) -> Payload:
    """Build a repository as it appears inside a workflow run: identity and links, no counts."""
    full_name = f"{owner['login']}/{name}"
    return {
        "id": number,
        "node_id": node_id("Repository", number),
        "name": name,
        "full_name": full_name,
        "private": False,
        "owner": owner,
        "html_url": f"{SITE}/{full_name}",
        "description": description,
        "fork": False,
        "url": f"{API}/repos/{full_name}",
        **_links(f"{API}/repos/{full_name}", _REPOSITORY_LINKS),
    }


def repository(minimal: Payload, *, language: str, stars: int, issues: int) -> Payload:
    """Build a full repository from its minimal form."""
    full_name = minimal["full_name"]
    return {
        **minimal,
        "created_at": "2019-05-15T15:19:25Z",
        "updated_at": "2026-03-02T08:11:04Z",
        "pushed_at": "2026-03-02T08:10:57Z",
        "git_url": f"git://github.com/{full_name}.git",
        "ssh_url": f"git@github.com:{full_name}.git",
        "clone_url": f"{SITE}/{full_name}.git",
        "svn_url": f"{SITE}/{full_name}",
        "homepage": None,
        "size": 4 * stars,
        "stargazers_count": stars,
        "watchers_count": stars,
        "language": language,
        **_repository_features(),
        "forks_count": stars // 9,
        "open_issues_count": issues,
        "forks": stars // 9,
        "open_issues": issues,
        "watchers": stars,
        "default_branch": "main",
    }


def _repository_features() -> Payload:
    return {
        "has_issues": True,
        "has_projects": True,
        "has_downloads": True,
        "has_wiki": True,
        "has_pages": False,
        "mirror_url": None,
        "archived": False,
        "disabled": False,
        "license": {
            "key": "mit",
            "name": "MIT License",
            "spdx_id": "MIT",
            "url": f"{API}/licenses/mit",
            "node_id": "MDc6TGljZW5zZTEz",
        },
        "allow_forking": True,
        "is_template": False,
        "topics": [],
        "visibility": "public",
    }


def label(repository_url: str, name: str, number: int, color: str, description: str) -> Payload:
    """Build a label of an issue or pull request."""
    return {
        "id": number,
        "node_id": node_id("Label", number),
        "url": f"{repository_url}/labels/{name.replace(' ', '%20')}",
        "name": name,
        "color": color,
        "default": True,
        "description": description,
    }


def milestone(repo: Payload, creator: Payload, number: int) -> Payload:
    """Build the milestone of an issue or pull request."""
    url = f"{repo['url']}/milestones/{number}"
    return {
        "url": url,
        "html_url": f"{repo['html_url']}/milestone/{number}",
        "labels_url": f"{url}/labels",
        "id": 4_317_000 + number,
        "node_id": node_id("Milestone", 4_317_000 + number),
        "number": number,
        "title": f"v{number}.0",
        "description": "Everything that the next release needs",
        "creator": creator,
        "open_issues": 7,
        "closed_issues": 31,
        "state": "open",
        "created_at": "2026-01-07T10:40:12Z",
        "updated_at": "2026-02-27T17:02:49Z",
        "due_on": "2026-06-30T07:00:00Z",
        "closed_at": None,
    }


def reactions(owner_url: str, *, thumbs_up: int = 0) -> Payload:
    """Build the counts of reactions to an issue, comment or release."""
    return {
        "url": f"{owner_url}/reactions",
        "total_count": thumbs_up,
        **dict.fromkeys(_REACTIONS, 0),
        "+1": thumbs_up,
    }


def app(owner: Payload, slug: str, number: int) -> Payload:
    """Build the GitHub App that reports a check."""
    return {
        "id": number,
        "slug": slug,
        "node_id": node_id("App", number),
        "owner": owner,
        "name": slug.replace("-", " ").title(),
        "description": "Automate your workflow from idea to production",
        "external_url": f"https://{slug}.example.com",
        "html_url": f"{SITE}/apps/{slug}",
        "created_at": "2018-07-30T09:30:17Z",
        "updated_at": "2025-12-10T19:04:12Z",
        "permissions": _APP_PERMISSIONS,
        "events": ["check_run", "check_suite", "create", "pull_request", "push", "release", "workflow_run"],
    }


def installation(number: int) -> Payload:
    """Build the reference to the App installation that a webhook was sent for."""
    return {"id": number, "node_id": node_id("Integration", number)}


def commit_user(account: Payload) -> dict[str, Any]:
    """Build the author of a commit as a push names it."""
    login = account["login"]
    return {"name": login.title(), "email": f"{account['id']}+{login}@users.noreply.github.com", "username": login}
