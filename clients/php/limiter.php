<?php

/**
 * Access Limiter for PHP: at most so many requests in each window for each client, exact over all processes.
 *
 *     require 'limiter.php';
 *     Limiter\guard();
 *
 * It answers 401, 429 or 500 itself, or returns and sets the RateLimit header fields. It shares its store with
 * the other clients of store format 1 (docs/store-format.md). It needs PHP 8.1, 64 bits, and no extension.
 *
 * LIMITER_ROOT must be set. LIMITER_LIMIT, _NEWCOMERS, _APPS, _KEY, _MODE and _ON_ERROR are as in
 * docs/settings.md. Any other setting that is not at its default gets a 500 that says so: nothing is ignored.
 * The one exception: PHP cannot see how many inodes are free, so newcomers are refused only when a call fails.
 *
 * For your own purposes: Limiter\hit($root, '10/minute', $name) and Limiter\peek(...).
 */

declare(strict_types=1);

namespace Limiter;

// The condition lets the file be required twice: only what it encloses is not declared at compile time.
if (!\function_exists('Limiter\guard')) {
    /** The store failed. $symbol is errno's name, as ENOENT; $path is the file or directory. */
    final class StoreError extends \RuntimeException
    {
        public function __construct(public readonly string $symbol, string $why, public readonly string $path)
        {
            parent::__construct("[$symbol] $why: $path");
        }
    }

    /** A setting or an argument is wrong. */
    final class Mistake extends \InvalidArgumentException
    {
    }

    /**
     * The answer to a hit. $retryAfter: seconds until the same hit is allowed; 0 if it is; INF if never.
     * $quotas: for each limit its name, quota, window (seconds), remaining and reset (seconds).
     */
    final class Decision
    {
        /** @param list<array{name: string, quota: int, window: int, remaining: int, reset: float}> $quotas */
        public function __construct(
            public readonly bool $allowed,
            public readonly float $retryAfter,
            public readonly array $quotas,
            /** @var list<string> what an administrator should know about the store */
            public readonly array $notes = [],
        ) {
        }
    }

    // Calls to the file system. PHP has no errno: the end of its warning has the text.

    /** The warnings of PHP while the store is called, whatever the application's handler does with them. */
    final class Warnings
    {
        private const SYMBOLS = [
            'No such file or directory' => 'ENOENT', 'Stale file handle' => 'ESTALE', 'File exists' => 'EEXIST',
            'Directory not empty' => 'ENOTEMPTY', 'Too many links' => 'EMLINK', 'Permission denied' => 'EACCES',
            'Operation not permitted' => 'EPERM', 'No space left on device' => 'ENOSPC',
            'Disk quota exceeded' => 'EDQUOT', 'File descriptor in bad state' => 'EBADFD',
            'Transport endpoint is not connected' => 'ENOTCONN', 'Not a directory' => 'ENOTDIR',
            'Is a directory' => 'EISDIR', 'Input/output error' => 'EIO', 'Read-only file system' => 'EROFS',
            'Too many open files' => 'EMFILE', 'Too many open files in system' => 'ENFILE',
            'Cannot allocate memory' => 'ENOMEM', 'Invalid argument' => 'EINVAL',
            'Too many levels of symbolic links' => 'ELOOP', 'File name too long' => 'ENAMETOOLONG',
            'Operation not supported' => 'EOPNOTSUPP', 'Invalid cross-device link' => 'EXDEV',
            'Resource temporarily unavailable' => 'EAGAIN', 'Device or resource busy' => 'EBUSY',
            'Connection timed out' => 'ETIMEDOUT', 'Function not implemented' => 'ENOSYS',
        ];

        public static string $last = '';

        /**
         * Run a function while warnings come here, and messages of the system are in English.
         *
         * @template T
         * @param callable(): T $function
         * @return T
         */
        public static function during(callable $function): mixed
        {
            $locale = \defined('LC_MESSAGES') ? \setlocale(\LC_MESSAGES, '0') : false;
            if ($locale !== false && $locale !== 'C') {
                \setlocale(\LC_MESSAGES, 'C');
            }
            \set_error_handler(static function (int $level, string $message): bool {
                self::$last = $message;
                return true;
            });
            try {
                return $function();
            } finally {
                \restore_error_handler();
                if ($locale !== false && $locale !== 'C') {
                    \setlocale(\LC_MESSAGES, $locale);
                }
            }
        }

        /** The error that the last warning tells of. */
        public static function error(string $path): StoreError
        {
            $text = \trim((string) \substr((string) \strrchr(self::$last, ':'), 1));
            if (\str_contains(self::$last, 'tat failed for ')) {
                $text = 'No such file or directory'; // all that PHP says of stat() and lstat()
            }
            $symbol = self::SYMBOLS[$text] ?? '';
            return new StoreError($symbol ?: 'EIO', $symbol ? $text : self::$last, $path);
        }
    }

    /** Whether a call has succeeded. False: what it was for is gone. Throws StoreError for anything else. */
    function done(bool $result, string $path): bool
    {
        if ($result) {
            return true;
        }
        $error = Warnings::error($path);
        if ($error->symbol === 'ENOENT' || $error->symbol === 'ESTALE') {
            return false;
        }
        throw $error;
    }

    /** @return list<string> the entries of a directory, sorted; none if there is no such directory */
    function entries(string $path): array
    {
        // Its second warning is "scandir(): (errno 2): No such file or directory".
        $found = \scandir($path, \SCANDIR_SORT_NONE);
        if (!done($found !== false, $path)) {
            return [];
        }
        $found = \array_values(\array_diff($found, ['.', '..']));
        \sort($found, \SORT_STRING);
        return $found;
    }

    function remove_empty(string $path): bool
    {
        try {
            done(\rmdir($path), $path);
        } catch (StoreError $error) {
            if (!\in_array($error->symbol, ['EEXIST', 'ENOTEMPTY', 'EMLINK'], true)) {
                throw $error;
            }
            return false;
        }
        return true;
    }

    function must_exist(string $root): void
    {
        \clearstatcache();
        if (!done(\stat("$root/.") !== false, $root) || !\is_dir("$root/.")) {
            throw new StoreError('ENOENT', 'The store does not exist (make it, or set LIMITER_ROOT)', $root);
        }
    }

    // The arithmetic of limits. Times are microseconds since the epoch.

    function clock(): int
    {
        $now = \microtime(); // as text: a float would lose digits
        return (int) (\substr($now, 11) . \substr($now, 2, 6));
    }

    function stamp(int $time): string
    {
        $digits = \str_pad((string) $time, 16, '0', \STR_PAD_LEFT);
        return \substr($digits, 0, 10) . '.' . \substr($digits, 10);
    }

    function time_of(string $name): int
    {
        return (int) (\substr($name, 0, 10) . \substr($name, 11, 6));
    }

    function number_of(string $name): int
    {
        return (int) \substr($name, 18);
    }

    function name(int $time, bool $provisional, int $number): string
    {
        return stamp($time) . ($provisional ? '~' : '-') . $number;
    }

    function is_name(string $text): bool
    {
        return \preg_match('/\A[0-9]{10}\.[0-9]{6}[-~](?:0|[1-9][0-9]{0,17})\z/', $text) === 1;
    }

    /** A limit of one kind. Names are sorted slots of one directory, at least one. */
    abstract class Limit
    {
        // Preloading keeps the constants of classes alone.
        public const SECOND = 1_000_000;
        public const LONGEST = 3660 * 86400; // seconds
        public const UNITS = [
            'second' => 1, 'seconds' => 1, 'sec' => 1, 's' => 1, 'minute' => 60, 'minutes' => 60, 'min' => 60,
            'm' => 60, 'hour' => 3600, 'hours' => 3600, 'h' => 3600, 'day' => 86400, 'days' => 86400, 'd' => 86400,
            'month' => 2592000, 'months' => 2592000, 'year' => 31104000, 'years' => 31104000,
        ];
        protected const FEW = 16; // slots in the first directory
        protected const SEGMENT = 64; // slots in each of the others

        public string $policy = '';
        public string $name = '';
        public int $segments = 1;
        public bool $isReturnable = false;

        public function __construct(public readonly int $quota, public readonly int $window)
        {
        }

        public function label(): string
        {
            return $this->policy === '' ? $this->name : $this->policy;
        }

        public function directory(int $segment): string
        {
            $name = $this->policy === '' ? $this->name : "$this->policy=$this->name";
            return $segment ? "$name.$segment" : $name;
        }

        /** @return array{int, int} the first number of the slots of this directory, and how many there are */
        public function numbers(int $segment): array
        {
            return [0, 1];
        }

        public function slot(string $name): int
        {
            return 0;
        }

        public function expiry(int $now): int
        {
            return $this->window;
        }

        /** The name that takes a slot back which was claimed and is not needed. */
        public function released(string $old, int $now): string
        {
            return \max($old, name(\max(0, $now - $this->window - 1), false, $this->slot($old)));
        }

        /**
         * @param list<string> $names
         * @return array{list<string>, int, int} the names that a hit may claim, the hits that count, and the
         *     microseconds until the first of these no longer does
         */
        abstract public function look(array $names, int $now): array;

        abstract public function taken(string $name, int $now, bool $provisional): string;

        /** The name that undoes $claim, on which others have built $name; null if there is nothing to undo. */
        abstract public function returned(string $name, string $claim, int $now): ?string;
    }

    final class Sliding extends Limit
    {
        public function __construct(int $quota, int $window)
        {
            parent::__construct($quota, $window);
            $this->name = "$quota-per-" . \intdiv($window, self::SECOND) . 's';
            $this->segments = \intdiv($quota + self::SEGMENT - 1, self::SEGMENT) + ($quota > self::FEW ? 1 : 0);
            $this->isReturnable = true;
        }

        public function numbers(int $segment): array
        {
            $first = $segment === 1 ? self::FEW : self::SEGMENT * \max($segment - 1, 0);
            return [$first, \min($segment ? self::SEGMENT * $segment : self::FEW, $this->quota) - $first];
        }

        public function slot(string $name): int
        {
            return number_of($name);
        }

        public function look(array $names, int $now): array
        {
            $begin = stamp(\max(1, $now - $this->window + 1));
            $end = stamp($now + $this->window + 1);
            $free = [];
            $first = '';
            foreach ($names as $name) {
                if (\strcmp($name, $begin) < 0 || \strcmp($name, $end) >= 0) {
                    $free[] = $name;
                } elseif ($first === '') {
                    $first = $name;
                }
            }
            $used = \count($names) - \count($free);
            return [$free, $used, $used ? time_of($first) + $this->window - $now : 0];
        }

        public function taken(string $name, int $now, bool $provisional): string
        {
            return stamp($now) . ($provisional ? '~' : '-') . \substr($name, 18);
        }

        public function released(string $old, int $now): string
        {
            $later = name(time_of($old) + 1, false, number_of($old));
            return \max($later, name(\max(0, $now - $this->window - 1), false, number_of($old)));
        }

        public function returned(string $name, string $claim, int $now): ?string
        {
            return null;
        }
    }

    final class Fixed extends Limit
    {
        public function __construct(int $quota, int $window)
        {
            parent::__construct($quota, $window);
            $this->name = "$quota-per-" . \intdiv($window, self::SECOND) . 's-fixed';
        }

        public function look(array $names, int $now): array
        {
            $last = $names[\count($names) - 1];
            [$time, $used] = $this->state($last, $now);
            return [$used < $this->quota ? [$last] : [], $used, $used ? $this->end($time) - $now : 0];
        }

        public function taken(string $name, int $now, bool $provisional): string
        {
            [$time, $used] = $this->state($name, $now);
            return name($time, $provisional || ($used > 0 && $name[17] === '~'), $used + 1);
        }

        public function expiry(int $now): int
        {
            return $this->end($now) - $now;
        }

        public function returned(string $name, string $claim, int $now): ?string
        {
            $time = time_of($name);
            if (\intdiv($time, $this->window) !== \intdiv(time_of($claim), $this->window)) {
                return null;
            }
            return name($time, $name[17] === '~', number_of($name) - 1);
        }

        /** @return array{int, int} the time to count at, and the hits so far in its window */
        private function state(string $name, int $now): array
        {
            $last = time_of($name);
            if ($last > $now + $this->window) {
                return [$now, 0];
            }
            $time = \max($last, $now);
            $isSame = \intdiv($last, $this->window) === \intdiv($time, $this->window);
            return [$time, $isSame ? number_of($name) : 0];
        }

        private function end(int $time): int
        {
            return (\intdiv($time, $this->window) + 1) * $this->window;
        }
    }

    /** $quota tokens, into which $rate flow in each $period; $window is how long it takes to fill. */
    final class Burst extends Limit
    {
        public function __construct(private readonly int $rate, private readonly int $period, int $quota)
        {
            // Else the products below may not fit into 64 bits.
            if ($period > \intdiv(\PHP_INT_MAX, 4 * ($quota + $rate))) {
                throw new Mistake('a burst limit of these numbers is too large for PHP');
            }
            parent::__construct($quota, \intdiv($period * $quota + $rate - 1, $rate));
            $this->name = "$rate-per-" . \intdiv($period, self::SECOND) . "s-burst-$quota";
        }

        public function look(array $names, int $now): array
        {
            $last = $names[\count($names) - 1];
            $debt = $this->debt($last, $now);
            $used = \min(\intdiv($debt + $this->period - 1, $this->period), $this->quota);
            $next = $debt - ($used - 1) * $this->period;
            $free = $debt + $this->period <= $this->quota * $this->period ? [$last] : [];
            return [$free, $used, $used ? \intdiv($next + $this->rate - 1, $this->rate) : 0];
        }

        public function taken(string $name, int $now, bool $provisional): string
        {
            $debt = $this->debt($name, $now);
            $units = $debt + $this->period;
            $mark = $provisional || ($debt > 0 && $name[17] === '~');
            return name($now + \intdiv($units, $this->rate), $mark, $units % $this->rate);
        }

        public function expiry(int $now): int
        {
            return \intdiv($this->period + $this->rate - 1, $this->rate);
        }

        public function returned(string $name, string $claim, int $now): ?string
        {
            if ($now >= time_of($claim)) {
                return null;
            }
            // time * rate + number - period, without a product that may not fit
            $rest = number_of($name) - $this->period % $this->rate;
            $time = time_of($name) - \intdiv($this->period, $this->rate) - ($rest < 0 ? 1 : 0);
            return name($time, $name[17] === '~', $rest < 0 ? $rest + $this->rate : $rest);
        }

        /** How much the bucket lacks until it is full, in units of 1/rate of a microsecond. */
        private function debt(string $name, int $now): int
        {
            $ahead = time_of($name) - $now;
            if ($ahead > $this->window + $this->period || $ahead < -1) {
                return 0;
            }
            return \max(0, $ahead * $this->rate + number_of($name));
        }
    }

    // The notation of limits: docs/limits.md.

    /** @return list<Limit> the limits that the text names, in its order. Throws Mistake. */
    function parse(string $text): array
    {
        $wrong = static fn (string $why): Mistake => new Mistake("limit '" . \substr($text, 0, 200) . "': $why");
        $limits = [];
        foreach (\preg_split('/[;,|]/', $text) ?: [] as $part) {
            $pattern = '/\A[ \t]*(?:([a-z][a-z0-9-]{0,31})[ \t]*=[ \t]*)?([0-9]{1,15})[ \t]*(?:\/|per)[ \t]*'
                . '([0-9]{1,15})?[ \t]*([a-z]++)[ \t]*(?:(fixed)|burst[ \t]*([0-9]{1,15}))?[ \t]*\z/i';
            if (
                \preg_match($pattern, $part, $found, \PREG_UNMATCHED_AS_NULL) !== 1
                || ($found[1] !== null && $found[1] !== \strtolower($found[1]))
            ) {
                throw $wrong("expected limits such as 10/second, found '$part'");
            }
            $unit = Limit::UNITS[\strtolower($found[4])] ?? throw $wrong("expected a unit, found '$found[4]'");
            $count = (int) $found[2];
            $multiple = (int) ($found[3] ?? 1);
            if ($multiple < 1 || $multiple > \intdiv(Limit::LONGEST, $unit)) {
                throw $wrong('expected a window from 1 second to 3660 days');
            }
            $window = $multiple * $unit;
            $burst = isset($found[6]) ? (int) $found[6] : null;
            if ($burst === 0) {
                throw $wrong('expected a capacity of at least 1');
            }
            if ($burst !== null && $count) {
                // window * burst > LONGEST * count, without products that may not fit
                $longest = Limit::LONGEST;
                if ($burst > \intdiv($longest, $window) * (float) $count + ($longest % $window) * $count / $window) {
                    throw $wrong('expected a bucket that fills within 3660 days');
                }
                $limit = new Burst($count, $window * Limit::SECOND, $burst);
            } elseif ($found[5] !== null && $count) {
                $limit = new Fixed($count, $window * Limit::SECOND);
            } elseif ($count <= 10000) {
                $limit = new Sliding($count, $window * Limit::SECOND);
            } else {
                throw $wrong('expected a sliding limit of at most 10000 hits');
            }
            $limit->policy = $found[1] ?? '';
            foreach ($limits as $other) {
                if (
                    $other->directory(0) === $limit->directory(0)
                    || ($limit->policy !== '' && $other->policy === $limit->policy)
                ) {
                    throw $wrong('expected a limit not yet given');
                }
            }
            $limits[] = $limit;
        }
        return $limits;
    }

    // A hit: look at all limits, then claim what it needs of each, or deny it and write nothing.

    /** What one look at one limit shows. */
    final class View
    {
        /** @var array<string, list<string>> the sorted slots of each directory seen */
        public array $listed = [];
        /** @var list<array{string, string}> each directory and name that the hit may claim, in order */
        public array $free = [];
        /** @var array<string, true> the directories in which all slots are free */
        public array $idle = [];
        public int $now = 0;
        public int $used = 0;
        public int $next = 0;
        public int $lost = 0;
        public bool $isAll = false;

        public function __construct(public readonly Limit $limit)
        {
        }

        /** Look at one more listed directory. Returns whether to look at the next. */
        public function add(string $directory, int $now): bool
        {
            $names = $this->listed[$directory];
            [$free, $used, $first] = $this->limit->look($names, $now);
            if ($used && (!$this->used || $first < $this->next)) {
                $this->next = $first;
            }
            $this->now = $now;
            $this->used += $used;
            if ($free && !$this->free) {
                if ($used) {
                    $start = $now % \count($free); // contenders look at different moments
                    $free = [...\array_slice($free, $start), ...\array_slice($free, 0, $start)];
                } else {
                    $this->idle[$directory] = true;
                    $slot = $this->limit->slot(...);
                    \usort($free, static fn (string $one, string $other): int => $slot($one) <=> $slot($other));
                }
                foreach ($free as $name) {
                    $this->free[] = [$directory, $name];
                }
            }
            return !$this->free || ($this->limit->window >= 60 * Limit::SECOND && $this->unknown() > 0);
        }

        /** How many hits may count in directories that were not looked at. */
        public function unknown(): int
        {
            $oldest = \min(\array_map(static fn (array $names): string => $names[0], $this->listed));
            if ($this->isAll || \strcmp($oldest, stamp(\max($this->now - 2 * $this->limit->window, 0))) <= 0) {
                return 0;
            }
            $number = 0;
            for ($nth = \count($this->listed); $nth < $this->limit->segments; $nth++) {
                $number += $this->limit->numbers($nth)[1];
            }
            return $number;
        }

        /** @return array{name: string, quota: int, window: int, remaining: int, reset: float} */
        public function quota(int $now, int $cost): array
        {
            $limit = $this->limit;
            $reset = $this->used || !$cost ? $this->next : $limit->expiry($this->now);
            $unknown = $this->listed ? $this->unknown() : 0;
            return [
                'name' => $limit->label(),
                'quota' => $limit->quota,
                'window' => \intdiv($limit->window + Limit::SECOND - 1, Limit::SECOND),
                'remaining' => \max(0, $limit->quota - $this->used - $this->lost - $unknown - $cost),
                'reset' => \max(0, $this->now + $reset - $now) / Limit::SECOND,
            ];
        }
    }

    /** The looks and claims of one hit. */
    final class Attempt
    {
        private const ROUNDS = 1000;
        private const LISTINGS = 4;

        /** @var list<string> */
        public array $notes = [];
        public ?Decision $refused = null;
        private int $faults = 0;
        private int $since = 0;

        /** @param list<Limit> $limits */
        public function __construct(
            private readonly string $root,
            private readonly array $limits,
            private readonly string $app,
            private readonly string $newcomers,
        ) {
        }

        public function hit(): Decision
        {
            foreach ($this->limits as $limit) {
                if ($limit->quota < 1) {
                    return $this->decision(false, \INF, $this->views(), 0, 0);
                }
            }
            for ($round = 0; $round < self::ROUNDS; $round++) {
                try {
                    $views = [];
                    foreach ($this->limits as $limit) {
                        $views[] = $this->look($limit);
                        if ($this->refused) {
                            return $this->refused;
                        }
                    }
                    $now = $views[\count($views) - 1]->now;
                    $short = \array_filter($views, static fn (View $view): bool => !$view->free);
                    if ($short) {
                        return $this->deny($views, $short, $now);
                    }
                    if ($this->claim($views)) {
                        return $this->decision(true, 0.0, $views, $now, 1);
                    }
                } catch (StoreError $error) {
                    $this->survive($error);
                }
            }
            throw new StoreError('EBUSY', 'Other hits claimed every free slot first', "$this->root/$this->app");
        }

        /** @return list<View> */
        private function views(): array
        {
            return \array_map(static fn (Limit $limit): View => new View($limit), $this->limits);
        }

        /** @param list<View> $views */
        private function decision(bool $allowed, float $retry, array $views, int $now, int $cost): Decision
        {
            $quotas = \array_map(static fn (View $view): array => $view->quota($now, $cost), $views);
            return new Decision($allowed, $retry, $quotas, $this->notes);
        }

        /** @param list<View> $views @param array<View> $short */
        public function deny(array $views, array $short, int $now): Decision
        {
            $end = $now + 1;
            foreach ($short as $view) {
                $end = \max($end, $view->now + $view->next);
            }
            return $this->decision(false, ($end - $now) / Limit::SECOND, $views, $now, 0);
        }

        /** List the segments until there is room or none is left. Missing ones are furnished. */
        public function look(Limit $limit, bool $furnishes = true): View
        {
            $view = new View($limit);
            for ($segment = 0; $segment < $limit->segments; $segment++) {
                $directory = "$this->app@" . $limit->directory($segment);
                $found = entries("$this->root/$directory");
                if (!$found && ($view->free || !$furnishes)) {
                    break;
                }
                $names = $this->complete($view, $segment, $directory, $found);
                if (!$names) {
                    return $view;
                }
                $view->listed[$directory] = $names;
                if (!$view->add($directory, clock())) {
                    return $view;
                }
            }
            if ($limit->segments === 1 || !$view->listed) {
                $view->isAll = true;
                return $view;
            }
            // The first segments may have gained room while the last were listed: look at all for one time.
            $again = new View($limit);
            $again->listed = $view->listed;
            $again->lost = $view->lost;
            $again->isAll = true;
            foreach (\array_keys($view->listed) as $directory) {
                $again->add($directory, $view->now);
            }
            return $again;
        }

        /**
         * @param list<string> $found
         * @return list<string> the sorted slots of a directory, one for each that it has; none: there is no room
         */
        private function complete(View $view, int $segment, string $directory, array $found): array
        {
            $limit = $view->limit;
            [$first, $number] = $limit->numbers($segment);
            if (self::isWhole($limit, $found, $first, $number)) {
                return $found; // nearly always
            }
            $isSlot = static fn (string $name): bool => is_name($name)
                && $limit->slot($name) >= $first && $limit->slot($name) < $first + $number;
            $listings = 0;
            $now = 0;
            for ($round = 0; $round < self::ROUNDS; $round++) {
                $slots = \array_values(\array_filter($found, $isSlot));
                $numbers = \array_unique(\array_map($limit->slot(...), $slots));
                $marks = \array_filter(
                    $found,
                    static fn (string $it): bool => \str_starts_with($it, '.gone-') && $isSlot(\substr($it, 6)),
                );
                if (!$found) {
                    $time = \max(0, clock() - 2 * $limit->window - 1);
                    $names = [];
                    for ($nth = $first; $nth < $first + $number; $nth++) {
                        $names[] = name($time, false, $nth);
                    }
                    \sort($names, \SORT_STRING);
                    if ($this->furnishIfThereIsRoom($segment, $directory, $names)) {
                        return $names;
                    }
                    if ($this->refused) {
                        return [];
                    }
                } elseif ($marks && $listings) {
                    $this->settle($directory, $limit, $slots, $marks, $now);
                } elseif (\count($slots) === $number && \count($numbers) === $number) {
                    return $slots;
                } elseif ($listings === self::LISTINGS) {
                    $chosen = $this->oneEach($directory, $limit, $slots, $now);
                    if ($chosen) {
                        $view->lost += $number - \count($chosen);
                        return $chosen;
                    }
                    if ($chosen !== null) {
                        break;
                    }
                } else {
                    $listings++;
                }
                $now = clock();
                $found = entries("$this->root/$directory");
            }
            $why = "This limit's directory has no slots (remove it: the next hit makes it anew)";
            throw new StoreError('ENOENT', $why, "$this->root/$directory");
        }

        /** Whether these are one name of each slot, and nothing else. @param list<string> $found */
        private static function isWhole(Limit $limit, array $found, int $first, int $number): bool
        {
            $pattern = '/\A(?:[0-9]{10}\.[0-9]{6}[-~](?:0|[1-9][0-9]{0,17})\/)++\z/';
            if (\count($found) !== $number || \preg_match($pattern, \implode('/', $found) . '/') !== 1) {
                return false;
            }
            if (!$limit->isReturnable) {
                return true; // the one slot, whose number is a count
            }
            $numbers = [];
            foreach ($found as $name) {
                $numbers[(int) \substr($name, 18)] = true;
            }
            $numbers = \array_keys($numbers);
            return \count($numbers) === $number && \min($numbers) >= $first && \max($numbers) < $first + $number;
        }

        /** @param list<string> $names */
        private function furnishIfThereIsRoom(int $segment, string $directory, array $names): bool
        {
            $isNewcomer = $segment === 0 && $this->newcomers !== '';
            $wait = 60.0;
            $why = 'the file system is full';
            try {
                $count = $isNewcomer ? $this->count($this->newcomers, '.newcomers') : null;
                if (!$count || $count->allowed) {
                    return $this->furnish($directory, $names);
                }
                $wait = $count->retryAfter;
                $why = "LIMITER_NEWCOMERS is $this->newcomers";
            } catch (StoreError $error) {
                $isFull = \in_array($error->symbol, ['ENOSPC', 'EDQUOT', 'EMLINK'], true);
                if (!$isFull || ($segment === 0 && !$isNewcomer)) {
                    throw $error;
                }
            }
            $views = $this->views();
            foreach ($views as $view) {
                $view->used = $view->limit->quota;
                $view->next = \is_finite($wait) ? (int) ($wait * Limit::SECOND) : 0;
            }
            try {
                $isNew = $this->count('1/minute', '.refusals')->allowed;
            } catch (StoreError) {
                $isNew = true;
            }
            if ($isNew) {
                $what = $segment === 0 ? 'new clients' : 'more hits of known clients';
                $this->notes[] = "$this->root: $what are refused (429): $why";
            }
            $this->refused = $this->decision(false, $wait, $views, 0, 0);
            return false;
        }

        /** Count something else in the same store, whatever room there is. */
        private function count(string $limits, string $app): Decision
        {
            return (new self($this->root, parse($limits), $app, ''))->hit();
        }

        /** @param list<string> $names @return bool whether this call made the directory */
        private function furnish(string $directory, array $names): bool
        {
            $path = "$this->root/$directory";
            if (!remove_empty($path)) {
                return false;
            }
            $aside = "$this->root/.new-" . \bin2hex(\random_bytes(8));
            $lost = ['EEXIST'];
            try {
                $this->fill($aside, $names);
                $lost = ['EEXIST', 'ENOTEMPTY', 'EMLINK'];
                if (!\rename($aside, $path)) {
                    throw Warnings::error($path);
                }
            } catch (StoreError $error) {
                $this->discard($aside, $names);
                if (!\in_array($error->symbol, [...$lost, 'ENOENT', 'ESTALE'], true)) {
                    throw $error;
                }
                must_exist($this->root);
                return false;
            }
            // On GlusterFS, a copy that has just come back makes a rename succeed that all others refuse.
            \clearstatcache();
            if (!done(\lstat($aside) !== false, $aside)) {
                return true;
            }
            $this->discard($aside, $names);
            return false;
        }

        /** @param list<string> $names */
        private function fill(string $aside, array $names): void
        {
            \clearstatcache();
            $home = \stat("$this->root/.");
            if ($home === false) {
                throw Warnings::error($this->root);
            }
            $mode = $home['mode'] & 02777;
            if (!\mkdir($aside, $mode)) {
                throw Warnings::error($aside);
            }
            $first = "$aside/$names[0]";
            self::create($first);
            self::share($first, $home, $mode & 0666);
            foreach (\array_slice($names, 1) as $name) {
                if (!\link($first, "$aside/$name")) {
                    $error = Warnings::error("$aside/$name");
                    if (\in_array($error->symbol, ['EEXIST', 'ENOENT', 'ESTALE'], true)) {
                        throw $error;
                    }
                    self::create("$aside/$name"); // a file system without hard links
                }
            }
            self::share($aside, $home, $mode);
        }

        private static function create(string $path): void
        {
            $file = \fopen($path, 'x');
            if ($file === false) {
                throw Warnings::error($path);
            }
            \fclose($file);
        }

        /** @param array<int|string, int> $home */
        private static function share(string $path, array $home, int $mode): void
        {
            \clearstatcache();
            $made = \stat($path);
            if ($made === false) {
                throw Warnings::error($path);
            }
            if (($made['mode'] & 07777) !== $mode) {
                self::permitted(\chmod($path, $mode), $path);
            }
            if ($made['gid'] !== $home['gid']) {
                self::permitted(\chgrp($path, $home['gid']), $path);
            }
            if ($made['uid'] !== $home['uid'] && $made['uid'] === 0) {
                self::permitted(\chown($path, $home['uid']), $path);
            }
        }

        private static function permitted(bool $result, string $path): void
        {
            $error = $result ? null : Warnings::error($path);
            if ($error && $error->symbol !== 'EPERM' && $error->symbol !== 'EACCES') {
                throw $error;
            }
        }

        /** @param list<string> $names */
        private function discard(string $aside, array $names): void
        {
            foreach ($names as $name) {
                \unlink("$aside/$name"); // its errors are ignored: the one that led here is reported
            }
            \rmdir($aside);
        }

        /** A later name of a free slot: also free, but not idle. */
        private static function freed(Limit $limit, string $name, int $now): string
        {
            $time = \max(time_of($name) + 1, $now - $limit->window - 1);
            return name($time, false, number_of($name));
        }

        private function rename(string $directory, string $old, string $new): bool
        {
            $path = "$this->root/$directory/";
            return done(\rename($path . $old, $path . $new), $path . $old);
        }

        /** End a sweep whose sweeper may have died. @param list<string> $slots @param array<string> $marks */
        private function settle(string $directory, Limit $limit, array $slots, array $marks, int $now): void
        {
            $path = "$this->root/$directory";
            $numbers = \array_map($limit->slot(...), $slots);
            foreach ($marks as $mark) {
                $lowest = \substr($mark, 6);
                $number = $limit->slot($lowest);
                $isOld = static fn (string $name): bool => time_of($name) <= $now - $limit->window;
                if (\in_array($number, $numbers, true)) {
                    $isThere = \in_array($lowest, $slots, true);
                    if (!$isThere || $this->rename($directory, $lowest, self::freed($limit, $lowest, $now))) {
                        done(\unlink("$path/$mark"), "$path/$mark");
                    }
                } elseif (
                    \count(\array_filter($slots, $isOld)) === \count($slots)
                    && (!$numbers || $number < \min($numbers))
                ) {
                    foreach ([...$slots, $mark] as $name) {
                        done(\unlink("$path/$name"), "$path/$name");
                    }
                    remove_empty($path);
                } else {
                    $this->rename($directory, $mark, self::freed($limit, $lowest, $now));
                }
            }
        }

        /**
         * @param list<string> $slots
         * @return list<string>|null the newest name of each slot; null: another process changed one, list again
         */
        private function oneEach(string $directory, Limit $limit, array $slots, int $now): ?array
        {
            $names = [];
            foreach ($slots as $name) {
                $names[$limit->slot($name)][] = $name;
            }
            \ksort($names);
            $free = $now - $limit->window;
            $last = \end($slots);
            $wakes = \count($names) < \count($slots) && $last !== false && time_of($last) <= $free;
            $chosen = [];
            foreach ($names as $known) {
                $newest = \array_pop($known);
                if ((!$known && !$wakes) || time_of($newest) > $free) {
                    $chosen[] = $newest;
                    continue;
                }
                $later = self::freed($limit, $newest, $now);
                if ($this->rename($directory, $newest, $later)) {
                    foreach ($known as $older) {
                        $path = "$this->root/$directory/$older";
                        if (!done(\unlink($path), $path)) {
                            return null;
                        }
                    }
                    $newest = $later;
                } elseif ($wakes) {
                    return null;
                }
                $wakes = false;
                $chosen[] = $newest;
            }
            \sort($chosen, \SORT_STRING);
            return $chosen;
        }

        /** Claim what the hit needs in each view. False: a race was lost. @param list<View> $views */
        private function claim(array $views): bool
        {
            if (\count($views) > 1) {
                // First what can always be given back, then shorter windows.
                \usort($views, static fn (View $one, View $other): int =>
                    [!$one->limit->isReturnable, $one->limit->window]
                    <=> [!$other->limit->isReturnable, $other->limit->window]);
            }
            $last = $views[\count($views) - 1];
            $claims = [];
            try {
                foreach ($views as $view) {
                    $claim = $this->claimIn($view, $view !== $last);
                    if (!$claim) {
                        $this->giveBack($claims);
                        return false;
                    }
                    $claims[] = $claim;
                }
            } catch (StoreError $error) {
                try {
                    $this->giveBack($claims);
                } catch (StoreError) {
                    // the first error is reported
                }
                throw $error;
            }
            return true;
        }

        /** @return array{View, string, string, string}|null the view, the directory, the old and the new name */
        private function claimIn(View $view, bool $provisional): ?array
        {
            foreach ($view->free as [$directory, $name]) {
                try {
                    $new = $this->take($view, $directory, $name, $provisional);
                } catch (StoreError $error) {
                    $this->survive($error); // nobody knows whether it was done: try another slot
                    $new = null;
                }
                if ($new !== null) {
                    return [$view, $directory, $name, $new];
                }
                if (isset($view->idle[$directory])) {
                    return null; // another hit woke it, or a sweeper has it: look again
                }
            }
            return null;
        }

        private function take(View $view, string $directory, string $name, bool $provisional): ?string
        {
            $now = \max($view->now, clock());
            $new = $view->limit->taken($name, $now, $provisional);
            if (!$this->rename($directory, $name, $new)) {
                return null;
            }
            $late = clock();
            if ($late - $now > 10_000 && $late - $now > \intdiv($view->limit->window, 20)) {
                // The hit is admitted only now. With the earlier stamp it would be forgotten too soon.
                $again = $view->limit->taken($name, $late, $provisional);
                if ($this->rename($directory, $new, $again)) {
                    return $again;
                }
            }
            return $new;
        }

        /** @param list<array{View, string, string, string}> $claims */
        private function giveBack(array $claims): void
        {
            foreach (\array_reverse($claims) as [$view, $directory, $old, $new]) {
                try {
                    if ($this->rename($directory, $new, $view->limit->released($old, clock()))) {
                        continue;
                    }
                    for ($round = 0; $round < self::ROUNDS; $round++) {
                        $names = \array_filter(entries("$this->root/$directory"), is_name(...));
                        $name = $names ? \max($names) : '';
                        $undone = $names ? $view->limit->returned($name, $new, clock()) : null;
                        if ($undone === null || $this->rename($directory, $name, $undone)) {
                            break;
                        }
                    }
                } catch (StoreError $error) {
                    $this->survive($error); // to repeat that might admit one hit too many
                }
            }
        }

        /** If it is worthwhile to try again, wait and return. Otherwise throw the error. */
        public function survive(StoreError $error): void
        {
            $now = (int) (\hrtime(true) / 1000);
            $this->since = $this->faults ? $this->since : $now;
            $this->faults++;
            $mayPass = $error->symbol === 'EBADFD' || $error->symbol === 'ENOTCONN';
            if (!$mayPass || $this->faults > 5 || $now - $this->since > 250_000) {
                throw $error;
            }
            \usleep(1000 << ($this->faults - 1));
        }
    }

    function is_app(string $text): bool
    {
        return \preg_match('/\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\z/', $text) === 1;
    }

    function check_app(string $app): void
    {
        if (!is_app($app)) {
            throw new Mistake("app_id '" . \addcslashes(\substr($app, 0, 200), "\0..\37\177..\377")
                . "': expected 1 to 64 letters, digits, '.', '_' and '-', beginning with a letter or a digit");
        }
    }

    /**
     * Count a hit of $app against the limits, or deny it and count nothing.
     *
     * $root is an existing directory. $newcomers bounds how many new clients the store takes in; '' does not.
     * Throws Mistake for bad arguments, and StoreError if the store fails.
     */
    function hit(
        string $root,
        string $limits,
        string $app,
        string $newcomers = '20/second burst 1000',
    ): Decision {
        check_app($app);
        $parsed = parse($limits);
        return Warnings::during(static fn () => (new Attempt($root, $parsed, $app, $newcomers))->hit());
    }

    /** The decision that a hit would get now. Counts and furnishes nothing. Throws as hit() does. */
    function peek(string $root, string $limits, string $app): Decision
    {
        check_app($app);
        $parsed = parse($limits);
        return Warnings::during(static function () use ($root, $parsed, $app): Decision {
            $attempt = new Attempt($root, $parsed, $app, '');
            $views = [];
            $short = [];
            foreach ($parsed as $limit) {
                $view = $attempt->look($limit, false);
                $views[] = $view;
                if ($view->listed ? !$view->free : $limit->quota < 1) {
                    $short[] = $view;
                }
                if (!$view->listed) {
                    must_exist($root);
                }
            }
            $now = clock();
            if ($short) {
                return $attempt->deny($views, $short, $now);
            }
            $quotas = \array_map(static fn (View $view): array => $view->quota($now, 0), $views);
            return new Decision(true, 0.0, $quotas);
        });
    }

    // A request.

    /** The answer to a request. Only its header fields matter if it is admitted: the status is 200. */
    final class Answer
    {
        /** @param list<array{string, string}> $fields the names and values of header fields */
        public function __construct(
            public readonly int $status,
            public readonly array $fields,
            public readonly string $body,
            public readonly ?Decision $decision,
        ) {
        }
    }

    /** A request, by its CGI variables. The settings are among them, or in the environment. */
    final class Request
    {
        private const UNSUPPORTED = [
            'NODES' => '1', 'RULES' => '', 'TRUSTED_PROXIES' => '', 'IPV6_PREFIX' => '64', 'HEADERS' => 'draft',
            'PROBLEM' => '0', 'JITTER' => '0', 'LOG' => 'stderr', 'LOG_LEVEL' => 'error', 'LOG_SAMPLE' => '1',
            'MAIL_TO' => '', 'MAIL_FROM' => '', 'SMTP' => '',
        ];
        private const ADVICE = ' (put the guard or the map in front)';
        private const WRAPPING = [
            "\0\0\0\0\0\0\0\0\0\0\xff\xff", "\0\x64\xff\x9b\0\0\0\0\0\0\0\0",
        ];
        private const REASONS = [401 => 'Unauthorized', 429 => 'Too Many Requests', 500 => 'Internal Server Error'];

        /** @param array<string, mixed> $variables those of $_SERVER */
        public function __construct(private readonly array $variables)
        {
        }

        public function answer(): Answer
        {
            try {
                [$status, $decision] = $this->judge();
            } catch (\Throwable $error) {
                self::log($error->getMessage());
                $admits = $this->setting('ON_ERROR', 'deny') === 'admit' && $error instanceof StoreError;
                $status = $admits || $this->setting('MODE', 'enforce') === 'shadow' ? 200 : 500;
                $decision = null;
            }
            foreach ($decision->notes ?? [] as $note) {
                self::log($note);
            }
            return $this->answered($status, $decision);
        }

        private static function log(string $text): void
        {
            \error_log('limiter: ' . \addcslashes(\substr($text, 0, 2000), "\0..\37\177..\377"));
        }

        private function answered(int $status, ?Decision $decision): Answer
        {
            $fields = [];
            if ($decision) {
                $seconds = static fn (float $time): int => \max(1, (int) \ceil($time));
                $policies = $standings = [];
                foreach ($decision->quotas as $it) {
                    $policies[] = "\"{$it['name']}\";q={$it['quota']};w={$it['window']}";
                    $standings[] = "\"{$it['name']}\";r={$it['remaining']};t={$seconds($it['reset'])}";
                }
                $fields[] = ['RateLimit-Policy', \implode(', ', $policies)];
                $fields[] = ['RateLimit', \implode(', ', $standings)];
                if ($status === 429) {
                    $longest = \max(\array_column($decision->quotas, 'window'));
                    $isEver = \is_finite($decision->retryAfter);
                    $fields[] = ['Retry-After', (string) ($isEver ? $seconds($decision->retryAfter) : $longest)];
                }
            }
            if ($status === 200) {
                return new Answer($status, $fields, '', $decision);
            }
            if ($status === 401) {
                $fields[] = ['WWW-Authenticate', 'AppId realm="limiter"'];
            }
            $fields[] = ['Content-Type', 'application/json; charset=utf-8'];
            $fields[] = ['Cache-Control', 'no-store'];
            $body = '{"message": "' . self::REASONS[$status] . '"}';
            $isHead = ($this->variables['REQUEST_METHOD'] ?? '') === 'HEAD';
            return new Answer($status, $fields, $isHead ? '' : $body, $decision);
        }

        /** A variable as Apache's SetEnv has set it. An Action for PHP renames it. */
        private function variable(string $name): ?string
        {
            $value = $this->variables[$name] ?? $this->variables["REDIRECT_$name"] ?? \getenv($name);
            return \is_string($value) ? $value : null;
        }

        private function setting(string $name, string $default): string
        {
            $value = $this->variable("LIMITER_$name"); // a header of a client would be HTTP_LIMITER_...
            return $value === null || $value === '' ? $default : $value;
        }

        /** @return array{int, ?Decision} the status, and the decision if a hit was counted or denied */
        private function judge(): array
        {
            foreach (self::UNSUPPORTED as $name => $default) {
                if ($this->setting($name, $default) !== $default) {
                    throw new Mistake("LIMITER_$name: PHP's client does not know this setting" . self::ADVICE);
                }
            }
            $mode = $this->setting('MODE', 'enforce');
            $onError = $this->setting('ON_ERROR', 'deny');
            if (!\in_array($mode, ['enforce', 'shadow', 'off'], true)) {
                throw new Mistake("LIMITER_MODE='$mode': expected 'enforce' or 'shadow' or 'off'");
            }
            if ($onError !== 'deny' && $onError !== 'admit') {
                throw new Mistake("LIMITER_ON_ERROR='$onError': expected 'deny' or 'admit'");
            }
            if ($mode === 'off') {
                return [200, null];
            }
            $app = $this->appId($this->setting('KEY', 'app_id'));
            [$status, $decision] = $app === null ? [401, null] : $this->decide($app);
            if ($mode === 'enforce') {
                return [$status, $decision];
            }
            if ($status !== 200) {
                self::log("shadow: a request would have got $status " . self::REASONS[$status]);
            }
            return [200, null];
        }

        /** @return array{int, ?Decision} */
        private function decide(string $app): array
        {
            $roots = \explode(':', $this->setting('ROOT', ''));
            foreach ($roots as $root) {
                if (!\str_starts_with($root, '/')) {
                    $why = "expected an absolute path (PHP's client has no default store)";
                    throw new Mistake("LIMITER_ROOT='$root': $why");
                }
            }
            if (\count($roots) > 1) {
                $score = static fn (string $root): string => \hash('sha256', "$root\0$app");
                \usort($roots, static fn (string $one, string $other): int => \strcmp($score($other), $score($one)));
            }
            $limits = $this->setting('LIMIT', '10/second');
            $newcomers = $this->setting('NEWCOMERS', '20/second burst 1000');
            $newcomers = $newcomers === 'unlimited' ? '' : $newcomers;
            $register = $this->setting('APPS', '');
            if ($register !== '') {
                [$own, $limits] = Warnings::during(fn () => $this->lookUp($register, $app)) ?? [false, null];
                if ($limits === null) {
                    return [401, null];
                }
                if ($limits === 'unlimited') {
                    return [200, null];
                }
                $newcomers = $own ? '' : $newcomers;
            }
            if ($this->isCounted($register, $limits, $app)) {
                return [200, null];
            }
            $decision = hit($roots[0], $limits, $app, $newcomers);
            return [$decision->allowed ? 200 : 429, $decision];
        }

        /** Whether the map in front of this page has counted the same: see limiter/request/one_hit.py. */
        private function isCounted(string $register, string $limits, string $app): bool
        {
            $counted = $this->setting('COUNTED', '');
            if ($counted === '') {
                return false;
            }
            $names = \array_map(static fn (Limit $it): string => $it->directory(0), parse($limits));
            $names = $register === '' ? \implode(';', $names) : '';
            $own = [$this->setting('ROOT', ''), $register, $names, '1', $this->setting('MODE', 'enforce'), '', $app];
            return \substr(\hash('sha256', \implode("\n", $own)), 0, 16) === $counted;
        }

        /** @return array{bool, string}|null whether the register names this client, and its limits */
        private function lookUp(string $register, string $app): ?array
        {
            if ($register[0] !== '/') {
                throw new Mistake("LIMITER_APPS='$register': expected an absolute path");
            }
            foreach ([$app, '.default'] as $name) {
                $text = \readlink("$register/$name");
                if (done($text !== false, "$register/$name")) {
                    if ($name !== $app && \str_contains($text, '@')) {
                        // The networks of the register, which are for addresses alone.
                        if ($this->setting('KEY', '') === 'env:REMOTE_ADDR') {
                            $why = "PHP's client does not know networks" . self::ADVICE;
                            throw new Mistake("LIMITER_APPS='$register': $why");
                        }
                        $text = \explode('@', $text)[0];
                    }
                    return $text === '' ? null : [$name === $app, $text];
                }
            }
            \clearstatcache();
            if (!done(\stat("$register/.") !== false, $register)) {
                $why = 'The register does not exist (make it, or correct LIMITER_APPS)';
                throw new StoreError('ENOENT', $why, $register);
            }
            return null;
        }

        /** The app_id of this request, as the key says: docs/who-asks.md. Null: 401. */
        public function appId(string $key): ?string
        {
            [$kind, $name] = \str_contains($key, ':') ? \explode(':', $key, 2) : ['', $key];
            $pattern = ['' => '[A-Za-z0-9._-]*[A-Za-z0-9][A-Za-z0-9._-]*', 'header' => '-*[A-Za-z0-9][A-Za-z0-9-]*',
                'env' => '_*[A-Za-z0-9][A-Za-z0-9_]*'][$kind] ?? '(?!)';
            if (\preg_match("/\A$pattern\z/", $name) !== 1) {
                throw new Mistake("LIMITER_KEY='$key': expected a parameter's name, header:NAME or env:NAME");
            }
            return $kind === '' ? $this->parameter($name) : $this->identity($kind, $name);
        }

        /** The one value of the parameter, in whatever spelling. */
        private function parameter(string $key): ?string
        {
            $folded = \str_replace('.', '_', \strtolower($key));
            $like = \ltrim($folded, '_');
            $query = $this->variables['QUERY_STRING'] ?? '';
            $found = [];
            foreach (\explode('&', \str_replace(';', ';&;', \is_string($query) ? $query : '')) as $pair) {
                [$name, $value] = [...\explode('=', $pair, 2), ''];
                if (\strtolower($name) === $folded || self::resembles($name, $like)) {
                    $found[] = [$name, $value];
                }
            }
            if (\count($found) !== 1 || \rawurldecode($found[0][0]) !== $key) {
                return null;
            }
            $app = \rawurldecode($found[0][1]);
            return is_app($app) ? $app : null;
        }

        /** Whether some application may treat this name as the parameter's: see limiter/request/key.py. */
        private static function resembles(string $name, string $like): bool
        {
            $plain = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-';
            if (\strlen($name) < \strlen($like) || \strspn($name, $plain) === \strlen($name)) {
                return false;
            }
            $name = \strtolower(\rawurldecode(\str_replace('%u00', '%', $name)));
            $odd = '';
            foreach (\str_split($name) as $byte) {
                $odd .= \str_contains($plain, $byte) ? '' : $byte;
            }
            $name = \substr($name, \strspn($name, $odd . '_'));
            $alike = $odd === '' ? $name : \strtr($name, $odd, \str_repeat('_', \strlen($odd)));
            $after = \substr($name, \strlen($like), 1);
            return \str_starts_with($alike, $like) && ($after === '' || \str_contains($odd, $after));
        }

        /** The app_id made from a header or a variable: see limiter/request/identity.py. */
        private function identity(string $kind, string $name): ?string
        {
            $header = \strtoupper(\strtr($name, '-', '_'));
            $isBare = \in_array($header, ['CONTENT_TYPE', 'CONTENT_LENGTH'], true);
            $variable = $kind === 'env' ? $name : ($isBare ? $header : "HTTP_$header");
            $value = $this->variable($variable);
            $ofRequest = '/\A(?:REDIRECT_)*(?:HTTP_.*|SSL_CLIENT_.*|AUTH_TYPE|CONTENT_LENGTH|CONTENT_TYPE|PATH_INFO'
                . '|PATH_TRANSLATED|QUERY_STRING|REMOTE_HOST|REMOTE_IDENT|REMOTE_USER)\z/s';
            if ($value === null && \preg_match($ofRequest, $variable) !== 1) {
                throw new Mistake("LIMITER_KEY='$kind:$name': the server does not set this variable (correct its name;"
                    . ' if only some requests have it, set it empty for the others)');
            }
            $value = \trim($value ?? '', " \t");
            if ($variable === 'REMOTE_ADDR') {
                if (\in_array($value, ['', 'localhost'], true) || \str_starts_with($value, 'unix:')) {
                    throw new Mistake("LIMITER_KEY='$kind:$name': the server is behind a unix socket,"
                        . ' so REMOTE_ADDR is no address' . self::ADVICE);
                }
            } elseif ($kind === 'header' && \str_contains($value, ',')) {
                return null; // a server joins the values of a header that was sent twice
            } elseif ($variable === 'HTTP_AUTHORIZATION') {
                $value = self::credentials($value);
            }
            return self::identify($value);
        }

        private static function identify(string $value): ?string
        {
            $value = \trim($value, " \t");
            if ($value === '') {
                return null;
            }
            if (is_app($value) && !\str_starts_with($value, 'sha256-')) {
                return $value;
            }
            $isAddress = \filter_var($value, \FILTER_VALIDATE_IP, \FILTER_FLAG_IPV6) !== false;
            $address = $isAddress ? (string) \inet_pton($value) : '';
            if (\in_array(\substr($address, 0, 12), self::WRAPPING, true)) {
                return (string) \inet_ntop(\substr($address, 12)); // an IPv4 address that is wrapped
            }
            $value = $isAddress ? \inet_ntop(\substr($address, 0, 8) . \str_repeat("\0", 8)) . '/64' : $value;
            return 'sha256-' . \substr(\hash('sha256', $value), 0, 56);
        }

        /** What the credentials of an Authorization field count as; '': nothing. See limiter/request/credentials.py. */
        private static function credentials(string $value): string
        {
            $words = \preg_split('/[ \t\n\r\f\v]+/', $value, 2, \PREG_SPLIT_NO_EMPTY) ?: [];
            [$scheme, $rest] = \count($words) === 2 ? $words : ['', $words[0] ?? ''];
            $name = \strtolower($scheme ?: $rest);
            if ($scheme === '' && \in_array($name, ['basic', 'bearer', 'negotiate', 'digest'], true)) {
                return '';
            }
            if ($name === 'basic') {
                $login = (string) \base64_decode($rest, true);
                $isCanonical = \base64_encode($login) === $rest && \preg_match('/[\0-\x1f\x7f]/', $login) !== 1;
                return $isCanonical && \str_contains($login, ':') ? \trim(\explode(':', $login)[0], ' ') : '';
            }
            $token = \rtrim($rest, '=');
            if (\preg_match('/\A[A-Za-z0-9._~+\/-]+\z/', $token) !== 1) {
                return $scheme === '' ? $rest : ''; // a key alone: applications compare it as it is
            }
            if (\str_starts_with($token, 'eyJ') && \str_contains($token, '.')) {
                foreach (\explode('.', $token) as $part) {
                    $decoded = \base64_decode(\strtr($part, '-_', '+/'));
                    if (\strtr(\rtrim(\base64_encode($decoded), '='), '+/', '-_') !== $part) {
                        return '';
                    }
                }
            }
            return $scheme === '' ? $token : \ucfirst(\strtolower($scheme)) . " $token";
        }
    }

    /**
     * Returns if the hit is admitted, with the RateLimit header fields set. Otherwise answers 401, 429 or 500,
     * and ends the script. Call it before anything is printed. Returns null if nothing was counted.
     */
    function guard(): ?Decision
    {
        $answer = (new Request($_SERVER))->answer();
        foreach ($answer->fields as [$name, $value]) {
            \header("$name: $value");
        }
        if ($answer->status === 200) {
            return $answer->decision;
        }
        \http_response_code($answer->status);
        echo $answer->body;
        exit;
    }
}
