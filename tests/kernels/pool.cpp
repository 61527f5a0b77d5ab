// Drives the thread pool as kernels do, and harder. Exit code 0 where all holds; a line on standard error where not.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "threads.h"

extern "C" int redraft_set_threads(int count);
extern "C" int redraft_threads();

using redraft::parallel_for;

namespace {

void check(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "%s\n", what);
    std::_Exit(1);
}

// Every index exactly once, whatever the counts of indices and threads.
void covers(int count) {
    std::vector<int> seen(count, 0);  // plain integers: a second visit would be a race
    parallel_for(count, [&](int index) { ++seen[index]; });
    for (int value : seen) check(value == 1, "an index was not run exactly once");
}

void coverage() {
    for (int threads : {1, 2, 3, 8, 4, 1, 5}) {
        check(redraft_set_threads(threads) == threads && redraft_threads() == threads, "set_threads");
        for (int count : {0, 1, 2, 3, 7, 64, 1000}) covers(count);
    }
    check(redraft_set_threads(0) == 1 && redraft_set_threads(-5) == 1 && redraft_set_threads(1 << 20) == 1024, "bounds");
}

// Many short jobs, with pauses long enough for the workers to fall asleep between some.
void short_jobs() {
    redraft_set_threads(4);
    for (int job = 0; job < 3000; ++job) {
        covers(5);
        if (job % 100 == 0) std::this_thread::sleep_for(std::chrono::microseconds(job / 10));
    }
}

// Two threads are really two: each of two tasks waits for the other.
void runs_at_once() {
    redraft_set_threads(2);
    for (int round = 0; round < 20; ++round) {
        std::atomic<int> arrived{0};
        parallel_for(2, [&](int) {
            ++arrived;
            const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
            while (arrived < 2) {
                check(std::chrono::steady_clock::now() < end, "two tasks did not run at once");
                std::this_thread::yield();
            }
        });
    }
}

// The caller outlasts its spinning here, and has to sleep until the worker is done.
void waits_for_the_slow() {
    redraft_set_threads(2);
    for (int round = 0; round < 10; ++round) {
        std::atomic<int> arrived{0};
        std::vector<int> done(2, 0);
        const std::thread::id caller = std::this_thread::get_id();
        parallel_for(2, [&](int index) {
            ++arrived;
            while (arrived < 2) std::this_thread::yield();
            if (std::this_thread::get_id() != caller) std::this_thread::sleep_for(std::chrono::milliseconds(3));
            done[index] = 1;
        });
        check(done[0] == 1 && done[1] == 1, "returned before the work was done");
    }
}

void nested() {
    redraft_set_threads(3);
    std::vector<std::vector<int>> seen(6, std::vector<int>(10, 0));
    parallel_for(6, [&](int outer) {
        const std::thread::id here = std::this_thread::get_id();
        parallel_for(10, [&, outer](int inner) {
            check(std::this_thread::get_id() == here, "a nested call left its thread");
            ++seen[outer][inner];
        });
    });
    for (const auto& row : seen)
        for (int value : row) check(value == 1, "nested: an index was not run exactly once");
    // and afterwards calls are parallel again
    runs_at_once();
}

void several_callers() {
    redraft_set_threads(3);
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 4; ++caller)
        callers.emplace_back([] {
            for (int job = 0; job < 200; ++job) covers(17);
        });
    for (int job = 0; job < 50; ++job) redraft_set_threads(1 + job % 4);
    for (std::thread& caller : callers) caller.join();
}

// A child of fork has none of the workers; it must neither wait for them nor leave them out for good.
void forks() {
    redraft_set_threads(3);
    covers(100);
    const pid_t child = fork();
    if (child == 0) {
        alarm(60);
        check(redraft_threads() == 3, "the child forgot the number of threads");
        covers(100);
        runs_at_once();
        std::exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the forked child failed");
    covers(100);
}

// Forking while another thread is amid a job: what that thread holds stays held in the child.
void forks_amid_work() {
    redraft_set_threads(2);
    std::atomic<bool> stop{false};
    std::thread busy([&] {
        while (!stop) parallel_for(4, [](int) { std::this_thread::sleep_for(std::chrono::microseconds(50)); });
    });
    for (int round = 0; round < 20; ++round) {
        const pid_t child = fork();
        if (child == 0) {
            alarm(60);
            covers(50);
            std::_Exit(0);
        }
        int status = 0;
        waitpid(child, &status, 0);
        check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child forked amid work failed");
    }
    stop = true;
    busy.join();
}

}  // namespace

int main(int, char** arguments) {
    alarm(240);  // a hang is a failure
    const std::string what = arguments[1];
    if (what == "work") {
        coverage();
        short_jobs();
        runs_at_once();
        waits_for_the_slow();
        nested();
        several_callers();
    } else if (what == "fork") {
        forks();
        forks_amid_work();
    }
    redraft_set_threads(4);
    covers(100);  // and ends with workers alive
    return 0;
}
