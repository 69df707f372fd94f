/* SPDX-License-Identifier: GPL-2.0-only */
/* turns.c in C++: condition variables, thread-local storage, containers, exceptions, and a line that is not written yet. */
#include <condition_variable>
#include <iostream>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <unistd.h>

namespace
{

const int threads = 4, rounds = 50;
std::mutex lock;
std::condition_variable turned;
int turn;
std::map<int, std::string> seen;
thread_local long mine;

void refuse(int number)
{
	if (number >= 0)
		throw std::out_of_range(std::to_string(number));
}

/* What it throws, it catches itself. */
void take_turns(int number, std::vector<long> &sums)
{
	for (int round = 0; round < rounds; round++) {
		std::unique_lock<std::mutex> held(lock);
		turned.wait(held, [&] { return turn % threads == number; });
		while (turn == threads * rounds / 2 && access("go", F_OK))
			std::this_thread::sleep_for(std::chrono::milliseconds(2));
		try {
			refuse(round);
		} catch (const std::out_of_range &error) {
			mine += std::stoi(error.what());
		}
		seen[turn++] = std::to_string(mine);
		turned.notify_all();
	}
	sums[number] = mine;
}

}

int main()
{
	std::vector<long> sums(threads);
	std::vector<std::thread> all;
	long sum = 0;

	std::cout << "ready" << std::endl << "begun before, ";
	for (int number = 0; number < threads; number++)
		all.emplace_back(take_turns, number, std::ref(sums));
	for (auto &one : all)
		one.join();
	for (long one : sums)
		sum += one;
	try {
		seen.at(-1);
	} catch (const std::out_of_range &) {
		std::cout << "caught" << std::endl;
	}
	std::cout << "sum " << sum << " after " << seen.size() << " turns, the last " << seen.rbegin()->second << std::endl;
	return 7;
}
